//! What the VMM says to people on standard error, of a node and of a VM that runs alone.
//!
//! Standard error may be a pipe that nobody reads, and a write to it then does not return. So a thread of its own
//! writes: whoever says something, the guest's thread too, goes on at once. What does not fit is left out and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// So many lines may wait to be written.
const WAITING_MAX: usize = 64;
/// So long the end of a process waits until what was said is written.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

static SPEAKER: OnceLock<Speaker> = OnceLock::new();

/// Says one line, after those before it, and waits for nothing. What cannot be written is lost: no VM ends for a full
/// file system under its log.
pub fn remark(text: String) {
    SPEAKER.get_or_init(|| Speaker::start(StandardError)).say(text);
}

/// Waits until what was said before is written, within a bound: the process is about to end.
pub fn wait_until_said() {
    if let Some(speaker) = SPEAKER.get() {
        speaker.wait_until_said(LAST_WORDS_MAX);
    }
}

/// Without the lock of [`io::stderr`]: a thread that panics takes it, and would hang where this one does.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the bytes are readable for the whole call.
        let written = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Item {
    Line(String),
    /// Answered once everything before it is written.
    Mark(Sender<()>),
}

/// The thread that writes, and the way to it.
struct Speaker {
    items: Sender<Item>,
    left_out: Arc<AtomicU64>,
}

impl Speaker {
    fn start(target: impl Write + Send + 'static) -> Speaker {
        let (items, waiting) = bounded(WAITING_MAX);
        let left_out = Arc::<AtomicU64>::default();
        let counter = left_out.clone();
        // Without the thread its end of the channel is gone, which `say` notices.
        let _ = std::thread::Builder::new().name("remarks".into()).spawn(move || {
            block_signals();
            write_all(target, &waiting, &counter);
        });
        Speaker { items, left_out }
    }

    fn say(&self, text: String) {
        match self.items.try_send(Item::Line(text)) {
            Err(TrySendError::Full(_)) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(Item::Line(text))) => write_line(&mut StandardError, text),
            _ => {}
        }
    }

    /// Whether everything that was said before is written within this time, or given up.
    fn wait_until_said(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let (written, answer) = bounded(1);
        self.items.send_deadline(Item::Mark(written), deadline).is_ok() && answer.recv_deadline(deadline).is_ok()
    }
}

/// Signals to the process are for the thread that runs the guest: their handler makes that one leave it.
fn block_signals() {
    // SAFETY: the set is initialised by the first call, and only this thread's mask changes.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
}

fn write_all(mut target: impl Write, items: &Receiver<Item>, left_out: &AtomicU64) {
    for item in items {
        let mark = match item {
            Item::Line(text) => {
                write_line(&mut target, text);
                None
            }
            Item::Mark(written) => Some(written),
        };
        // Lines are left out while others wait, so behind those.
        if items.is_empty() {
            let count = left_out.swap(0, Ordering::Relaxed);
            if count > 0 {
                write_line(&mut target, format!("ftvmm: remarks left out while nothing could be written: {count}"));
            }
        }
        if let Some(written) = mark {
            // Who waits for it may have given up.
            let _ = written.send(());
        }
    }
}

/// In one piece, so that nobody else's words stand in between.
fn write_line(target: &mut impl Write, mut text: String) {
    text.push('\n');
    let _ = target.write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn who_speaks_does_not_wait_for_a_pipe_that_nobody_reads() {
        let (mut reader, writer) = io::pipe().unwrap();
        let speaker = Speaker::start(writer);
        for number in 0..1000 {
            speaker.say(format!("{number:2000}"));
        }
        assert!(!speaker.wait_until_said(Duration::from_millis(1)), "a pipe of 64 KiB holds not even those that wait");
        let collected = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        assert!(speaker.wait_until_said(Duration::from_secs(60)));
        speaker.say("at last".into());
        drop(speaker);
        let text = collected.join().unwrap().unwrap();
        let (counts, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains("left out"));
        let left_out = counts.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum::<usize>();
        assert!(left_out > 0);
        assert_eq!(lines.len() + left_out, 1001);
        assert_eq!((lines[0].trim(), lines.last()), ("0", Some(&"at last")));
    }
}
