//! Threads: who runs, who waits, and the calls that start, stop and delay threads.
//!
//! One thread runs at a time, and another one only where it makes a system call: nothing interrupts a computation.

use alloc::boxed::Box;
use alloc::vec::Vec;

use linux_raw_sys::general::{
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_TAI, CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID,
    CLONE_PARENT_SETTID, CLONE_SETTLS, CLONE_SIGHAND, CLONE_THREAD, CLONE_VM, TIMER_ABSTIME,
};
use package::ThreadRecord;

use crate::clock::duration;
use crate::entry::{Frame, RED_ZONE_BYTES};
use crate::kernel::Kernel;
use crate::signals::ThreadSignals;
use crate::system_calls::{Call, Outcome, Stop, Wait, WaitFor, errno};

pub mod futex;

/// The number of the process, and of its first thread.
pub const PROCESS: i32 = 2;
/// More threads are refused.
const THREADS_MAX: usize = 1024;
/// Calls in a row after which another thread gets its turn.
const TURN_CALLS: u32 = 512;

/// What a call that runs more than once keeps between its tries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pending {
    /// when it gives up, in nanoseconds of the monotonic clock; set at the first try
    pub deadline: Option<u64>,
    /// how much of it is done, such as bytes that were taken
    pub progress: usize,
    /// a futex was woken
    pub is_woken: bool,
    /// it has waited before
    pub has_waited: bool,
}

/// How a parked thread waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// what for, and until when
    pub wait: Wait,
    /// the changes that it has seen
    seen: u64,
    /// those of them that were more than time
    seen_news: u64,
    /// its place in the order in which threads began to wait
    order: u64,
}

/// A thread.
pub struct Thread {
    /// its number, which Linux calls the thread identifier
    pub tid: i32,
    /// its name, as prctl sets it
    pub name: [u8; 16],
    /// its registers
    pub frame: Box<Frame>,
    /// where its thread-local storage is
    pub fs_base: u64,
    /// the call that it is in, while it has no result
    pub call: Option<Call>,
    /// what that call keeps between its tries
    pub pending: Pending,
    /// how it waits, None where it can run
    pub wait: Option<Waiting>,
    /// its mask and its own signals
    pub signals: ThreadSignals,
    /// set to zero, and woken, when it ends
    clear_tid: u64,
    has_ended: bool,
}

/// All threads, in the order in which they were started.
#[derive(Default)]
pub struct Threads {
    threads: Vec<Thread>,
    current: usize,
    next_tid: i32,
    turn: u32,
    is_turn_over: bool,
    waits: u64,
    /// who runs, who can and who waits may be otherwise than was told the VMM
    is_untold: bool,
}

impl Threads {
    /// Adds a thread that is ready to run; returns its index.
    fn add(&mut self, frame: Box<Frame>, fs_base: u64, signals: ThreadSignals, name: [u8; 16]) -> usize {
        self.is_untold = true;
        self.next_tid = self.next_tid.max(PROCESS) + 1;
        let tid = if self.threads.is_empty() { PROCESS } else { self.next_tid };
        self.threads.push(Thread {
            tid,
            name,
            frame,
            fs_base,
            call: None,
            pending: Pending::default(),
            wait: None,
            signals,
            clear_tid: 0,
            has_ended: false,
        });
        self.threads.len() - 1
    }

    /// Adds the first thread and makes it the running one; returns its frame.
    pub fn start_first(&mut self, frame: Frame, name: [u8; 16]) -> *mut Frame {
        self.current = self.add(Box::new(frame), 0, ThreadSignals::default(), name);
        self.current_frame()
    }

    /// The running thread.
    pub fn current(&self) -> &Thread {
        &self.threads[self.current]
    }

    /// The running thread, to be changed.
    pub fn current_mut(&mut self) -> &mut Thread {
        &mut self.threads[self.current]
    }

    /// All threads that have not ended.
    pub fn iter(&self) -> impl Iterator<Item = &Thread> {
        self.threads.iter().filter(|thread| !thread.has_ended)
    }

    /// All threads that have not ended, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Thread> {
        self.threads.iter_mut().filter(|thread| !thread.has_ended)
    }

    /// The frame of the running thread.
    pub fn current_frame(&mut self) -> *mut Frame {
        &raw mut *self.current_mut().frame
    }

    /// Takes the call of the running thread from its frame.
    pub fn begin_call(&mut self, frame: *mut Frame) {
        debug_assert!(core::ptr::eq(frame, &raw const *self.current().frame));
        self.turn += 1;
        let thread = self.current_mut();
        let frame = &thread.frame;
        let arguments = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9];
        thread.call = Some(Call { number: frame.rax, arguments });
        thread.pending = Pending::default();
    }

    /// Ends the call of the running thread with that value in RAX.
    pub fn end_call(&mut self, value: u64) {
        self.end_wait(self.current, value);
    }

    /// Ends the call of the thread with that index, which may be parked.
    pub fn end_wait(&mut self, index: usize, value: u64) {
        self.is_untold |= index != self.current;
        if let Some(thread) = self.threads.get_mut(index) {
            thread.frame.rax = value;
            thread.call = None;
            thread.wait = None;
            thread.pending = Pending::default();
        }
    }

    /// The running thread's frame is as its handler has left it: the call is over.
    pub fn resume(&mut self) {
        let thread = self.current_mut();
        thread.call = None;
        thread.pending = Pending::default();
    }

    /// Parks the running thread.
    pub fn park(&mut self, wait: Wait, changes: u64, news: u64) {
        self.waits += 1;
        let waiting = Waiting { wait, seen: changes, seen_news: news, order: self.waits };
        let thread = self.current_mut();
        thread.pending.has_waited = true;
        thread.wait = Some(waiting);
    }

    /// The running thread's turn is over.
    pub fn give_way(&mut self) {
        self.is_turn_over = true;
    }

    /// Whether the running thread goes on: its call has ended, and its turn has not.
    pub fn goes_on(&self) -> bool {
        let thread = self.current();
        let is_running = !thread.has_ended && thread.wait.is_none() && thread.call.is_none();
        is_running && !self.is_turn_over && (self.turn < TURN_CALLS || self.threads.len() == 1)
    }

    /// The thread that runs next: the first behind the running one that can.
    pub fn next(&mut self, changes: u64, now: u64) -> Option<usize> {
        let count = self.threads.len();
        let can_run = |thread: &Thread| {
            !thread.has_ended
                && thread.wait.is_none_or(|waiting| {
                    let has_changed = waiting.wait.on == WaitFor::Change && waiting.seen != changes;
                    has_changed || waiting.wait.until.is_some_and(|until| until <= now)
                })
        };
        (1..=count).map(|step| (self.current + step) % count).find(|index| can_run(&self.threads[*index]))
    }

    /// Makes that thread the running one.
    pub fn switch_to(&mut self, index: usize) {
        let is_other = index != self.current;
        self.is_untold = true;
        self.current = index;
        self.turn = 0;
        self.is_turn_over = false;
        self.current_mut().wait = None;
        if is_other {
            crate::entry::set_fs_base(self.current().fs_base);
            // Those that have ended go now, as the frame of one of them may have been in use until here.
            if self.threads.iter().any(|thread| thread.has_ended) {
                let tid = self.current().tid;
                self.threads.retain(|thread| !thread.has_ended);
                self.current = self.threads.iter().position(|thread| thread.tid == tid).unwrap_or(0);
            }
        }
    }

    /// Gives the running thread a name.
    pub fn set_name(&mut self, name: [u8; 16]) {
        self.is_untold = true;
        self.current_mut().name = name;
    }

    /// Tells the VMM of the running thread and of how many others there are, where that is news.
    pub fn tell(&mut self, record: &mut ThreadRecord) {
        if !core::mem::take(&mut self.is_untold) {
            return;
        }
        let running = self.current();
        let others = || self.iter().filter(|thread| thread.tid != running.tid);
        let waits = || others().filter_map(|thread| thread.wait);
        let listens = || waits().filter(|waiting| waiting.wait.on == WaitFor::Change);
        *record = ThreadRecord {
            first_end: waits().filter_map(|waiting| waiting.wait.until).min().unwrap_or(u64::MAX),
            oldest_seen: listens().map(|waiting| waiting.seen_news).min().unwrap_or(u64::MAX),
            thread: running.tid as u64,
            ready: others().filter(|thread| thread.wait.is_none()).count() as u32,
            listening: listens().count() as u32,
            name: running.name,
            ..*record
        };
    }

    /// When the first parked thread wants to run again, in nanoseconds.
    pub fn first_deadline(&self) -> Option<u64> {
        self.iter().filter_map(|thread| thread.wait?.wait.until).min()
    }
}

/// What clone and clone3 are asked for.
struct Request {
    flags: u64,
    /// the new thread's stack pointer
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    thread_local: u64,
}

/// clone(flags, stack, parent's thread number, child's thread number, thread-local storage)
///
/// # Errors
/// ENOSYS for another process, EAGAIN for too many threads, EFAULT.
pub fn clone(kernel: &mut Kernel, call: Call) -> Outcome {
    let [flags, stack, parent_tid, child_tid, thread_local, _] = call.arguments;
    start_thread(kernel, &Request { flags, stack, parent_tid, child_tid, thread_local })
}

/// clone3(arguments, size)
///
/// # Errors
/// As clone, and EINVAL for a structure that is too short.
pub fn clone3(kernel: &mut Kernel, call: Call) -> Outcome {
    const FIRST_VERSION_BYTES: u64 = 64;
    if call.word(1) < FIRST_VERSION_BYTES {
        return Err(errno::EINVAL.into());
    }
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let [flags, _, child_tid, parent_tid, _, stack, stack_bytes, thread_local]: [u64; 8] =
        kernel.memory.get(call.word(0))?;
    let stack = stack.wrapping_add(stack_bytes);
    let request = Request { flags, stack, parent_tid, child_tid, thread_local };
    start_thread(kernel, &request)
}

fn start_thread(kernel: &mut Kernel, request: &Request) -> Outcome {
    let has = |flag: u32| request.flags & u64::from(flag) != 0;
    if !(has(CLONE_VM) && has(CLONE_THREAD) && has(CLONE_SIGHAND)) {
        if !core::mem::replace(&mut kernel.process.has_told_of_fork, true) {
            sdk::println!("linux: the program wants to start another process, which it cannot here: ENOSYS");
        }
        return Err(errno::ENOSYS.into());
    }
    if request.stack == 0 {
        return Err(errno::EINVAL.into());
    }
    if kernel.threads.iter().count() >= THREADS_MAX {
        return Err(errno::EAGAIN.into());
    }
    let parent = kernel.threads.current();
    let mut frame = parent.frame.clone();
    // The child returns into the same stub, on its own stack, which the stub has moved by the red zone as well.
    let return_address: u64 = kernel.memory.get(frame.rsp)?;
    frame.rsp = request.stack.wrapping_sub(RED_ZONE_BYTES + 8);
    kernel.memory.put(frame.rsp, return_address)?;
    frame.rax = 0;
    let fs_base = if has(CLONE_SETTLS) { request.thread_local } else { parent.fs_base };
    let (signals, name) = (parent.signals.for_new_thread(), parent.name);
    let index = kernel.threads.add(frame, fs_base, signals, name);
    let thread = &mut kernel.threads.threads[index];
    let tid = thread.tid;
    if has(CLONE_CHILD_CLEARTID) {
        thread.clear_tid = request.child_tid;
    }
    if has(CLONE_PARENT_SETTID) {
        kernel.memory.put(request.parent_tid, tid)?;
    }
    if has(CLONE_CHILD_SETTID) {
        kernel.memory.put(request.child_tid, tid)?;
    }
    Ok(tid as u64)
}

/// exit(status): the thread ends, and the process with its last one.
///
/// # Errors
/// None.
pub fn exit(kernel: &mut Kernel, call: Call) -> Outcome {
    if kernel.threads.iter().count() == 1 {
        kernel.exit(call.int(0) & 0xff);
    }
    let thread = kernel.threads.current_mut();
    thread.has_ended = true;
    thread.call = None;
    let clear_tid = thread.clear_tid;
    // A word that is not the thread's any more is nobody's loss.
    if clear_tid != 0 && kernel.memory.put(clear_tid, 0u32).is_ok() {
        kernel.threads.wake(clear_tid, futex::ANY_BITS, 1);
    }
    Err(Stop::Ended)
}

/// exit_group(status): the process ends.
///
/// # Errors
/// None.
pub fn exit_group(kernel: &mut Kernel, call: Call) -> Outcome {
    kernel.exit(call.int(0) & 0xff)
}

/// gettid()
///
/// # Errors
/// None.
pub fn gettid(kernel: &mut Kernel, _: Call) -> Outcome {
    Ok(kernel.threads.current().tid as u64)
}

/// set_tid_address(address)
///
/// # Errors
/// None.
pub fn set_tid_address(kernel: &mut Kernel, call: Call) -> Outcome {
    kernel.threads.current_mut().clear_tid = call.word(0);
    gettid(kernel, call)
}

/// sched_yield()
///
/// # Errors
/// None.
pub fn sched_yield(kernel: &mut Kernel, _: Call) -> Outcome {
    kernel.threads.give_way();
    kernel.in_vain();
    Ok(0)
}

/// arch_prctl(code, address)
///
/// # Errors
/// EINVAL for all but FS; EPERM for an address that is none.
pub fn arch_prctl(kernel: &mut Kernel, call: Call) -> Outcome {
    // asm/prctl.h, which linux-raw-sys does not have.
    const ARCH_SET_FS: i32 = 0x1002;
    const ARCH_GET_FS: i32 = 0x1003;
    const ADDRESS_END: u64 = 1 << 47;
    match call.int(0) {
        ARCH_SET_FS if call.word(1) >= ADDRESS_END => Err(errno::EPERM.into()),
        ARCH_SET_FS => {
            kernel.set_fs_base(call.word(1));
            Ok(0)
        }
        ARCH_GET_FS => {
            kernel.memory.put(call.word(1), kernel.threads.current().fs_base)?;
            Ok(0)
        }
        _ => Err(errno::EINVAL.into()),
    }
}

/// nanosleep(duration, what is left)
///
/// # Errors
/// EINVAL, EFAULT, EINTR.
pub fn nanosleep(kernel: &mut Kernel, call: Call) -> Outcome {
    let time = duration(kernel, call.word(0))?;
    let deadline = kernel.clock.now().saturating_add(time);
    sleep_until(kernel, deadline)
}

/// clock_nanosleep(clock, flags, time, what is left)
///
/// # Errors
/// EINVAL, EFAULT, EINTR; EOPNOTSUPP for a clock that nobody can sleep by.
pub fn clock_nanosleep(kernel: &mut Kernel, call: Call) -> Outcome {
    let is_wall_clock = match call.unsigned(0) {
        CLOCK_REALTIME | CLOCK_TAI => true,
        CLOCK_MONOTONIC | CLOCK_BOOTTIME => false,
        known if known <= CLOCK_TAI => return Err(errno::EOPNOTSUPP.into()),
        _ => return Err(errno::EINVAL.into()),
    };
    let time = duration(kernel, call.word(2))?;
    let deadline = match (call.unsigned(1) & TIMER_ABSTIME != 0, is_wall_clock) {
        (false, _) => kernel.clock.now().saturating_add(time),
        (true, true) => kernel.clock.monotonic(time),
        (true, false) => time,
    };
    sleep_until(kernel, deadline)
}

fn sleep_until(kernel: &mut Kernel, deadline: u64) -> Outcome {
    let now = kernel.clock.now();
    let pending = &mut kernel.threads.current_mut().pending;
    let deadline = *pending.deadline.get_or_insert(deadline);
    match deadline <= now && pending.has_waited {
        true => Ok(0),
        false => Err(Stop::Wait(Wait { on: WaitFor::Signal, until: Some(deadline) })),
    }
}
