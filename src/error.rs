//! The one error type of the crate: whose fault it is, what it is about, what was found, the way out.

use std::fmt;

/// Whose fault an error is; decides the exit code and what a caller may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The file system said no.
    Io,
    /// A model, sample file or plan does not hold what its format asks for.
    Format,
    /// A declared size or count is beyond what efq accepts.
    Limit,
    /// The request itself is wrong: an option, a preset, a pattern, a path.
    Caller,
    /// Well-formed, but efq cannot do it.
    Unsupported,
    /// A weight has other values than its plan takes it to have.
    Unforeseen,
    /// The user asked to stop.
    Interrupted,
}

/// An error in one line: `subject: what (way out)`.
///
/// Names from a model stand in it as they are; whoever prints it escapes them.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    subject: String,
    what: String,
    help: Option<String>,
    /// Whether the subject begins with the file that is at fault.
    placed: bool,
}

/// Result with efq's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` about `subject` (a file, node, tensor, option or rule).
    pub fn new(kind: Kind, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self { kind, subject: subject.into(), what: what.into(), help: None, placed: false }
    }

    /// [`Kind::Format`].
    pub fn format(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Kind::Format, subject, what)
    }

    /// [`Kind::Limit`].
    pub fn limit(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Kind::Limit, subject, what)
    }

    /// [`Kind::Caller`].
    pub fn caller(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Kind::Caller, subject, what)
    }

    /// [`Kind::Unsupported`].
    pub fn unsupported(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, subject, what)
    }

    /// [`Kind::Io`] on the file or folder `path`.
    pub fn io(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(Kind::Io, path.display().to_string(), io_reason(error))
    }

    /// [`Kind::Interrupted`].
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted", "stopped at your request")
    }

    /// Adds the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the way out unless there is one already.
    #[must_use]
    pub fn or_help(mut self, help: impl Into<String>) -> Self {
        self.help.get_or_insert_with(|| help.into());
        self
    }

    /// Puts `place` (a file, a graph) before the subject; a request to stop has no place, and what is [`Error::of_file`]
    /// has its own.
    #[must_use]
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        if self.kind == Kind::Interrupted || self.placed {
            return self;
        }
        self.subject = format!("{place}: {}", self.subject);
        self
    }

    /// The same as an error of the file `path`, whichever other files it is met with.
    #[must_use]
    pub fn of_file(self, path: &std::path::Path) -> Self {
        Self { placed: true, ..self.within(path.display()) }
    }

    /// Whether the subject is `subject`.
    pub fn is_about(&self, subject: &str) -> bool {
        self.subject == subject
    }

    /// The same error as one of the request: a file that an option names.
    #[must_use]
    pub fn of_caller(mut self) -> Self {
        self.kind = Kind::Caller;
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.what)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The message of a library as part of a line: no breaks, at most 300 characters.
pub(crate) fn one_line(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match joined.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &joined[..end]),
        None => joined,
    }
}

fn io_reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::NotFound => "no such file or folder".to_owned(),
        K::PermissionDenied => "permission denied".to_owned(),
        K::AlreadyExists => "exists already".to_owned(),
        K::StorageFull => "no space left on the disk".to_owned(),
        K::IsADirectory => "is a folder, a file was expected".to_owned(),
        _ => error.to_string(),
    }
}
