//! A thread that interrupts a guest which does not leave by itself, so that the vCPU's thread can look at what it does.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::kicker::Kicker;

/// A guest that has not left for so long is interrupted, and so often from then on. Far less than the time after which
/// something is said, far more than what an interruption costs.
const PERIOD: Duration = Duration::from_millis(200);

/// Interrupts the guest as long as this lives.
pub(super) struct Watchdog {
    /// The thread ends when this is gone.
    _alive: Sender<()>,
}

impl Watchdog {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(kicker: Kicker) -> io::Result<Watchdog> {
        let (alive, ended) = channel();
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            let mut seen = None;
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                seen = kicker.kick_if_still(seen);
            }
        })?;
        Ok(Watchdog { _alive: alive })
    }
}
