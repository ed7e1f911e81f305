//! How far the production of payloads runs ahead of their writing, in bytes.

use std::sync::{Condvar, Mutex};

/// Lets groups of payloads in by their order, as long as those inside are no more bytes than a limit; one that is larger
/// by itself waits until it is alone.
pub(super) struct Gate {
    limit: usize,
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Default)]
struct Inside {
    /// The number of the group that enters next.
    next: usize,
    bytes: usize,
    closed: bool,
}

impl Gate {
    pub fn new(limit: usize) -> Self {
        Self { limit, inside: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until group `number` (each once, from 0 on) of `bytes` may be produced; false when it is not wanted any more.
    pub fn enter(&self, number: usize, bytes: usize) -> bool {
        let Ok(inside) = self.inside.lock() else { return false };
        let waits = |inside: &mut Inside| {
            let has_room = inside.bytes == 0 || inside.bytes.saturating_add(bytes) <= self.limit;
            !(inside.closed || inside.next == number && has_room)
        };
        let Ok(mut inside) = self.changed.wait_while(inside, waits) else { return false };
        inside.next += 1;
        inside.bytes = inside.bytes.saturating_add(bytes);
        self.changed.notify_all();
        !inside.closed
    }

    /// Says that a group of `bytes` is written.
    pub fn leave(&self, bytes: usize) {
        self.change(|inside| inside.bytes = inside.bytes.saturating_sub(bytes));
    }

    fn change(&self, change: impl FnOnce(&mut Inside)) {
        if let Ok(mut inside) = self.inside.lock() {
            change(&mut inside);
        }
        self.changed.notify_all();
    }
}

/// Turns away whoever waits at a gate, when dropped.
pub(super) struct Closing<'g>(pub &'g Gate);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.change(|inside| inside.closed = true);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn groups_enter_in_order_and_within_the_limit_or_alone() {
        let gate = Gate::new(10);
        let sizes = [4, 6, 3, 25, 1, 9, 2, 30, 30, 5];
        let (held, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (sender, entered) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for first in 0..3 {
                let (gate, held, most, sender) = (&gate, &held, &most, sender.clone());
                scope.spawn(move || {
                    for (number, bytes) in sizes.into_iter().enumerate().skip(first).step_by(3) {
                        assert!(gate.enter(number, bytes));
                        let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        most.fetch_max(if now == bytes { 0 } else { now }, Ordering::SeqCst);
                        sender.send(number).unwrap();
                    }
                });
            }
            for _ in sizes {
                let number = entered.recv().unwrap();
                held.fetch_sub(sizes[number], Ordering::SeqCst);
                gate.leave(sizes[number]);
            }
        });
        assert!(most.into_inner() <= 10);
    }

    #[test]
    fn nobody_waits_at_a_closed_gate() {
        let gate = Gate::new(10);
        assert!(gate.enter(0, 10));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter(1, 1));
            drop(Closing(&gate));
            assert!(!waiting.join().unwrap());
        });
        assert!(!gate.enter(5, 0));
    }
}
