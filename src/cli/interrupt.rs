//! The signals that stop a run.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Listens to SIGINT and SIGTERM: the first asks the run to stop and clean up, the second ends it at once.
pub(super) fn listen() {
    // Fails only where it was done before.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
}

/// Asks the run to stop.
#[cfg(unix)]
pub(super) fn stop() {
    STOP.store(true, Ordering::SeqCst);
}

/// Whether the run was asked to stop.
pub(super) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}
