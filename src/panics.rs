//! Panics of libraries that read foreign bytes: caught, and not printed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives, or `None` if it panicked. Nothing that it changed may be looked at after that.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(before);
    result.ok()
}

/// Keeps panics that become errors from being printed. For binaries, once at the start.
pub fn hush() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !INSIDE.get() {
            usual(info);
        }
    }));
}
