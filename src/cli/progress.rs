//! Progress bars on a terminal, and the signal that stops a run.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::General;
use crate::progress::Progress;

/// Shows stages on standard error if it is a terminal, and listens to SIGINT and SIGTERM.
pub(super) struct Bars {
    bar: Mutex<ProgressBar>,
    shown: bool,
    stop: Arc<AtomicBool>,
}

impl Bars {
    pub(super) fn new(general: &General) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        // The first signal asks the run to stop and clean up, the second ends it at once.
        let _ = ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        let shown = !general.quiet && std::io::stderr().is_terminal();
        Self { bar: Mutex::new(ProgressBar::hidden()), shown, stop }
    }
}

impl Progress for Bars {
    fn stage(&self, name: &str, total: u64) {
        if !self.shown {
            return;
        }
        let Ok(mut bar) = self.bar.lock() else { return };
        bar.finish_and_clear();
        let style = ProgressStyle::with_template("{msg:24} {wide_bar} {percent:>3} %  {eta:>4} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let next = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        next.set_style(style);
        next.set_message(name.to_owned());
        next.enable_steady_tick(Duration::from_millis(200));
        *bar = next;
    }

    fn advance(&self, steps: u64) {
        if let Some(bar) = self.bar.lock().ok().filter(|_| self.shown) {
            bar.inc(steps);
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Ok(bar) = self.bar.lock() {
            bar.finish_and_clear();
        }
    }
}
