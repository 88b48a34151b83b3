//! Everything in one place, and the round that serves system calls, lets threads take turns and waits for events.

use alloc::boxed::Box;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use package::ThreadRecord;

use crate::clock::Clock;
use crate::entry::{self, Frame};
use crate::files::Files;
use crate::memory::Memory;
use crate::processes::Process;
use crate::signals::Signals;
use crate::sockets::Stack;
use crate::system_calls::{Call, Errno, Stop, SystemCalls, errno};
use crate::threads::Threads;

/// Calls that found nothing to do before the devices are looked at without waiting: a program that spins on them would
/// see no frame otherwise.
const VAIN_CALLS_MAX: u32 = 32;
/// Calls of any kind before the devices are looked at without waiting.
const CALLS_MAX: u32 = 4096;

static KERNEL: AtomicPtr<Kernel> = AtomicPtr::new(null_mut());

/// The state of the personality.
pub struct Kernel {
    /// the clocks
    pub clock: Clock,
    /// the program's memory
    pub memory: Memory,
    /// its threads
    pub threads: Threads,
    /// descriptors and the file system
    pub files: Files,
    /// the network
    pub stack: Stack,
    /// signals that are pending, and what is to be done for each
    pub signals: Signals,
    /// what belongs to the process as a whole
    pub process: Process,
    system_calls: SystemCalls,
    /// grows whenever a thread that waits should look again
    changes: u64,
    /// the changes without the rounds in which only time went by
    news: u64,
    /// calls since the devices were looked at
    calls: u32,
    vain_calls: u32,
}

/// Hands the kernel to `work`: from the entry, which runs once at a time and never inside of itself.
pub fn with<R>(work: impl FnOnce(&mut Kernel) -> R) -> R {
    // SAFETY: `install` has set the pointer before the first thread started, the kernel is never freed, and the entry,
    // the only caller, is not entered again before it has returned: no handler runs the program's code.
    work(unsafe { &mut *KERNEL.load(Ordering::Relaxed) })
}

/// Installs the kernel for good.
pub fn install(kernel: Kernel) {
    KERNEL.store(Box::into_raw(Box::new(kernel)), Ordering::Relaxed);
}

impl Kernel {
    /// Puts the parts together.
    pub fn new(clock: Clock, memory: Memory, files: Files, stack: Stack, process: Process) -> Kernel {
        Kernel {
            clock,
            memory,
            threads: Threads::default(),
            files,
            stack,
            signals: Signals::default(),
            process,
            system_calls: SystemCalls::default(),
            changes: 0,
            news: 0,
            calls: 0,
            vain_calls: 0,
        }
    }

    /// Something has changed that a thread may be waiting for: data in a pipe, a closed socket, a counter.
    pub fn change(&mut self) {
        self.changes += 1;
        self.news += 1;
    }

    /// The number of changes so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Tells the VMM what it may know of the threads.
    pub fn tell(&mut self, record: &mut ThreadRecord) {
        self.threads.tell(record);
        record.now = self.clock.now();
        record.news = self.news;
    }

    /// A call that found nothing to do and did not wait.
    pub fn in_vain(&mut self) {
        self.vain_calls += 1;
    }

    /// Serves the call of the running thread, and those of others that can go on meanwhile; returns the frame of the
    /// thread that runs next.
    pub fn serve(&mut self, frame: *mut Frame) -> *mut Frame {
        self.threads.begin_call(frame);
        self.count_call();
        loop {
            if let Some(call) = self.threads.current().call {
                self.carry_out(call);
            }
            if self.threads.goes_on() {
                self.deliver_signals();
                return self.threads.current_frame();
            }
            self.next_thread();
        }
    }

    /// Runs the handler of the running thread's call, which ends the call, parks the thread or ends it.
    fn carry_out(&mut self, call: Call) {
        let outcome = match self.system_calls.find(call.number) {
            Some(found) => found.run(self, call),
            None => Err(Stop::Error(errno::ENOSYS)),
        };
        match outcome {
            Ok(value) => self.threads.end_call(value),
            Err(Stop::Error(Errno(number))) => {
                if number == errno::EAGAIN.0 {
                    self.in_vain();
                }
                self.threads.end_call(i64::from(number).wrapping_neg() as u64);
            }
            Err(Stop::Wait(wait)) => self.threads.park(wait, self.changes, self.news),
            Err(Stop::Resume) => self.threads.resume(),
            Err(Stop::Ended) => {}
        }
    }

    /// Chooses the thread that runs next, waiting for events until there is one.
    fn next_thread(&mut self) {
        loop {
            // A signal ends the wait of the thread that takes it.
            self.interrupt_waits();
            if let Some(index) = self.threads.next(self.changes, self.clock.now()) {
                self.threads.switch_to(index);
                return;
            }
            self.round(None);
        }
    }

    fn count_call(&mut self) {
        self.calls += 1;
        if self.vain_calls >= VAIN_CALLS_MAX || self.calls >= CALLS_MAX {
            self.round(Some(0));
        }
    }

    /// A round of events: sends what is to be sent, waits for a frame or the first deadline (at most `timeout`
    /// nanoseconds), and takes in what has come.
    pub fn round(&mut self, timeout: Option<u64>) {
        self.calls = 0;
        self.vain_calls = 0;
        let now = self.clock.now();
        self.stack.transmit(now);
        let write_back = self.files.tree.write_back_time().map(|time| self.clock.monotonic(time));
        let deadlines = [self.threads.first_deadline(), self.signals.first_deadline(), write_back];
        let waits = deadlines.into_iter().flatten().map(|deadline| deadline.saturating_sub(now));
        let idle = self.stack.idle_nanoseconds(now);
        let longest = waits.chain(idle).chain(timeout).min();
        let is_readable = sdk::poll::wait(longest);
        self.clock.refresh();
        let now = self.clock.now();
        if is_readable {
            self.stack.receive(now);
        }
        self.expire_timers(now);
        self.files.tree.write_back(self.clock.wall(now));
        self.changes += 1;
        self.news += u64::from(is_readable || idle == Some(0));
    }

    /// Ends the guest: closes what is open, and gives the last bytes a chance to leave.
    pub fn exit(&mut self, status: i32) -> ! {
        /// Peers get so long to acknowledge, in nanoseconds.
        const LINGER_NANOSECONDS: u64 = 2_000_000_000;
        self.close_all();
        let end = self.clock.now() + LINGER_NANOSECONDS;
        while self.stack.is_closing() && self.clock.now() < end {
            self.round(Some(end - self.clock.now()));
        }
        self.stack.transmit(self.clock.now());
        sdk::hypercall::halt(status)
    }

    /// Gives the running thread's FS base to the processor.
    pub fn set_fs_base(&mut self, address: u64) {
        self.threads.current_mut().fs_base = address;
        entry::set_fs_base(address);
    }
}
