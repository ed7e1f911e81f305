//! How the library tells what it is doing, and is asked to stop.

/// A listener to the stages of a run; every method has a default that ignores the call.
///
/// The methods may be called from several threads.
pub trait Progress: Sync {
    /// A stage of `total` steps begins; the stage before it is over.
    fn stage(&self, name: &str, total: u64) {
        let _ = (name, total);
    }

    /// `steps` more of the current stage are done; 0 says that a long step goes on.
    fn advance(&self, steps: u64) {
        let _ = steps;
    }

    /// Whether to stop as soon as possible with [`crate::Error::interrupted`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}
