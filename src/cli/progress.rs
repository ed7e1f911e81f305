//! Progress bars on a terminal, and word to the parent of a supervised run.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::General;
use super::interrupt;
#[cfg(unix)]
use super::supervise;
use crate::progress::Progress;

/// The parent of a supervised run hears of steps no more often than this.
const BEAT: Duration = Duration::from_millis(100);

/// Shows stages on standard error if it is a terminal, and tells them to the parent of a supervised run.
pub(super) struct Bars {
    bar: Mutex<ProgressBar>,
    shown: bool,
    told: Mutex<Instant>,
}

impl Bars {
    pub(super) fn new(general: &General) -> Self {
        interrupt::listen();
        let shown = !general.quiet && std::io::stderr().is_terminal();
        Self { bar: Mutex::new(ProgressBar::hidden()), shown, told: Mutex::new(Instant::now()) }
    }

    fn tell(&self, stage: Option<&str>) {
        let Ok(mut told) = self.told.lock() else { return };
        if stage.is_some() || told.elapsed() > BEAT {
            *told = Instant::now();
            #[cfg(unix)]
            supervise::tell(stage);
        }
    }
}

impl Progress for Bars {
    fn stage(&self, name: &str, total: u64) {
        self.tell(Some(name));
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
        self.tell(None);
        if let Some(bar) = self.bar.lock().ok().filter(|_| self.shown) {
            bar.inc(steps);
        }
    }

    fn cancelled(&self) -> bool {
        interrupt::stopped()
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Ok(bar) = self.bar.lock() {
            bar.finish_and_clear();
        }
    }
}
