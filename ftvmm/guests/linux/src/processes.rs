//! What belongs to the process as a whole: its numbers, limits and names, the time, and random numbers.

use core::arch::asm;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use linux_raw_sys::general::{
    CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME, CLOCK_REALTIME_ALARM, CLOCK_REALTIME_COARSE, CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID, GRND_INSECURE, GRND_NONBLOCK, GRND_RANDOM, RLIM64_INFINITY, RLIMIT_NOFILE,
    RLIMIT_SIGPENDING, RLIMIT_STACK, rlimit64, rusage,
};
use linux_raw_sys::general::{RUSAGE_CHILDREN, RUSAGE_SELF, RUSAGE_THREAD};
use linux_raw_sys::prctl::{
    PR_CAPBSET_READ, PR_GET_DUMPABLE, PR_GET_KEEPCAPS, PR_GET_NAME, PR_GET_NO_NEW_PRIVS, PR_GET_PDEATHSIG,
    PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, PR_SET_PTRACER,
    PR_SET_TIMERSLACK, PR_SET_VMA,
};
use linux_raw_sys::system::new_utsname;

use crate::clock::{MICROSECOND_NANOSECONDS, NANOSECONDS, timespec};
use crate::files::DESCRIPTORS_MAX;
use crate::kernel::Kernel;
use crate::signals::QUEUED_MAX;
use crate::start::STACK_BYTES;
use crate::system_calls::{Call, Errno, Outcome, errno};
use crate::threads::PROCESS;

/// The kernel version that programs see: that of Debian 12.
pub const RELEASE: &str = "6.1.0-ftvmm";
/// Clock ticks a second (AT_CLKTCK).
pub const TICKS: u64 = 100;

/// The process.
pub struct Process {
    random: ChaCha20Rng,
    limits: [rlimit64; RESOURCES],
    /// whether the console has said that there is one process only
    pub has_told_of_fork: bool,
}

/// A random number from the processor: the VMM answers it, and logs the answer.
fn hardware_random() -> u64 {
    let (mut value, mut is_valid): (u64, u8);
    loop {
        // SAFETY: the VMM rewrites the instruction, whatever the processor has.
        unsafe {
            asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) is_valid, options(nomem, nostack));
        }
        if is_valid != 0 {
            return value;
        }
    }
}

impl Process {
    /// A process whose random numbers are seeded from the logged source.
    pub fn start() -> Process {
        let mut seed = [0; 32];
        for part in seed.chunks_exact_mut(8) {
            part.copy_from_slice(&hardware_random().to_le_bytes());
        }
        Process { random: ChaCha20Rng::from_seed(seed), limits: first_limits(), has_told_of_fork: false }
    }

    /// Fills a buffer with random bytes.
    pub fn fill_random(&mut self, buffer: &mut [u8]) {
        self.random.fill_bytes(buffer);
    }
}

/// getpid(), and what else is the process's own number.
///
/// # Errors
/// None.
pub fn getpid(_: &mut Kernel, _: Call) -> Outcome {
    Ok(PROCESS as u64)
}

/// getpgid(process) and getsid(process): the process's own number.
///
/// # Errors
/// ESRCH for another process.
pub fn getpgid(kernel: &mut Kernel, call: Call) -> Outcome {
    find_thread(kernel, call.int(0))?;
    Ok(PROCESS as u64)
}

/// Whether there is a thread of that number; 0 is the calling one.
fn find_thread(kernel: &Kernel, number: i32) -> Result<(), Errno> {
    match number == 0 || kernel.threads.iter().any(|thread| thread.tid == number) {
        true => Ok(()),
        false => Err(errno::ESRCH),
    }
}

/// getppid()
///
/// # Errors
/// None.
pub fn getppid(_: &mut Kernel, _: Call) -> Outcome {
    Ok(PROCESS as u64 - 1)
}

/// getresuid and getresgid: three words, all root.
///
/// # Errors
/// EFAULT.
pub fn getresuid(kernel: &mut Kernel, call: Call) -> Outcome {
    for index in 0..3 {
        kernel.memory.put(call.word(index), 0u32)?;
    }
    Ok(0)
}

/// uname(structure)
///
/// # Errors
/// EFAULT.
pub fn uname(kernel: &mut Kernel, call: Call) -> Outcome {
    fn field(text: &str) -> [core::ffi::c_char; 65] {
        let mut field = [0; 65];
        for (to, from) in field.iter_mut().zip(text.bytes()) {
            *to = from as core::ffi::c_char;
        }
        field
    }
    let names = new_utsname {
        sysname: field("Linux"),
        nodename: field("ftvmm"),
        release: field(RELEASE),
        version: field("#1"),
        machine: field("x86_64"),
        domainname: field("(none)"),
    };
    kernel.memory.put(call.word(0), names)?;
    Ok(0)
}

/// Resources have numbers below this (RLIM_NLIMITS).
const RESOURCES: usize = 16;

/// The limits that a process starts with: descriptors, signals and the stack have one, nothing else.
fn first_limits() -> [rlimit64; RESOURCES] {
    let unlimited = RLIM64_INFINITY as u64;
    let mut limits = [rlimit64 { rlim_cur: unlimited, rlim_max: unlimited }; RESOURCES];
    let descriptors = DESCRIPTORS_MAX as u64;
    limits[RLIMIT_NOFILE as usize] = rlimit64 { rlim_cur: descriptors, rlim_max: descriptors };
    limits[RLIMIT_STACK as usize].rlim_cur = STACK_BYTES;
    limits[RLIMIT_SIGPENDING as usize] = rlimit64 { rlim_cur: QUEUED_MAX as u64, rlim_max: QUEUED_MAX as u64 };
    limits
}

impl Process {
    fn limit(&mut self, resource: u32) -> Result<&mut rlimit64, Errno> {
        self.limits.get_mut(resource as usize).ok_or(errno::EINVAL)
    }
}

/// Sets a limit; that of descriptors is the one that is enforced.
fn set_limit(kernel: &mut Kernel, resource: u32, new: rlimit64) -> Result<(), Errno> {
    let limit = kernel.process.limit(resource)?;
    if new.rlim_cur > new.rlim_max {
        return Err(errno::EINVAL);
    }
    if resource == RLIMIT_NOFILE {
        if new.rlim_max > DESCRIPTORS_MAX as u64 {
            return Err(errno::EPERM);
        }
        kernel.files.set_limit(new.rlim_cur as usize);
    }
    *limit = new;
    Ok(())
}

/// getrlimit(resource, structure)
///
/// # Errors
/// EINVAL, EFAULT.
pub fn getrlimit(kernel: &mut Kernel, call: Call) -> Outcome {
    let limit = *kernel.process.limit(call.unsigned(0))?;
    kernel.memory.put(call.word(1), limit)?;
    Ok(0)
}

/// setrlimit(resource, structure)
///
/// # Errors
/// EINVAL, EFAULT; EPERM for more descriptors than there can be.
pub fn setrlimit(kernel: &mut Kernel, call: Call) -> Outcome {
    let new = kernel.memory.get(call.word(1))?;
    set_limit(kernel, call.unsigned(0), new)?;
    Ok(0)
}

/// prlimit64(process, resource, new, old)
///
/// # Errors
/// EINVAL, EFAULT, EPERM, ESRCH.
pub fn prlimit64(kernel: &mut Kernel, call: Call) -> Outcome {
    let resource = call.unsigned(1);
    let new = match call.word(2) {
        0 => None,
        address => Some(kernel.memory.get(address)?),
    };
    find_thread(kernel, call.int(0))?;
    let old = *kernel.process.limit(resource)?;
    if let Some(new) = new {
        set_limit(kernel, resource, new)?;
    }
    kernel.memory.put_if_wanted(call.word(3), old)?;
    Ok(0)
}

/// getrusage(who, structure): nothing is counted but the time, which is all the process's.
///
/// # Errors
/// EINVAL, EFAULT.
pub fn getrusage(kernel: &mut Kernel, call: Call) -> Outcome {
    if !matches!(call.int(0), who if who == RUSAGE_SELF as i32 || who == RUSAGE_CHILDREN || who == RUSAGE_THREAD as i32)
    {
        return Err(errno::EINVAL.into());
    }
    // SAFETY: a structure of integers, for which zero is valid.
    let mut usage: rusage = unsafe { core::mem::zeroed() };
    if call.int(0) != RUSAGE_CHILDREN {
        let now = kernel.clock.look();
        usage.ru_utime.tv_sec = (now / NANOSECONDS) as _;
        usage.ru_utime.tv_usec = (now % NANOSECONDS / MICROSECOND_NANOSECONDS) as _;
    }
    kernel.memory.put(call.word(1), usage)?;
    Ok(0)
}

/// times(structure)
///
/// # Errors
/// EFAULT.
pub fn times(kernel: &mut Kernel, call: Call) -> Outcome {
    let ticks = kernel.clock.look() / (NANOSECONDS / TICKS);
    kernel.memory.put_if_wanted(call.word(0), [ticks, 0, 0, 0])?;
    Ok(ticks)
}

/// sysinfo(structure)
///
/// # Errors
/// EFAULT.
pub fn sysinfo(kernel: &mut Kernel, call: Call) -> Outcome {
    // SAFETY: a structure of integers, for which zero is valid.
    let mut information: linux_raw_sys::system::sysinfo = unsafe { core::mem::zeroed() };
    let (total, free) = kernel.memory.total_and_free();
    information.uptime = (kernel.clock.look() / NANOSECONDS) as _;
    information.totalram = total as _;
    information.freeram = free as _;
    information.procs = kernel.threads.iter().count() as u16;
    information.mem_unit = 1;
    kernel.memory.put(call.word(0), information)?;
    Ok(0)
}

/// getpriority(which, who): nice value 0, as the system call says it.
///
/// # Errors
/// EINVAL.
pub fn getpriority(_: &mut Kernel, call: Call) -> Outcome {
    match call.int(0) {
        0..=2 => Ok(20),
        _ => Err(errno::EINVAL.into()),
    }
}

/// sched_getparam(process, structure): priority 0.
///
/// # Errors
/// EINVAL, EFAULT, ESRCH.
pub fn sched_getparam(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.word(1) == 0 || call.int(0) < 0 {
        return Err(errno::EINVAL.into());
    }
    find_thread(kernel, call.int(0))?;
    kernel.memory.put(call.word(1), 0i32)?;
    Ok(0)
}

/// sched_getaffinity(thread, size, mask): the one processor; returns the bytes that were written.
///
/// # Errors
/// EINVAL for a buffer that is too small or no multiple of a word, EFAULT, ESRCH.
pub fn sched_getaffinity(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.word(1) < 8 || !call.word(1).is_multiple_of(8) {
        return Err(errno::EINVAL.into());
    }
    find_thread(kernel, call.int(0))?;
    kernel.memory.put(call.word(2), 1u64)?;
    Ok(8)
}

/// prctl(operation, ...)
///
/// # Errors
/// EINVAL for an operation that is not known, EFAULT.
pub fn prctl(kernel: &mut Kernel, call: Call) -> Outcome {
    match call.unsigned(0) {
        PR_SET_NAME => {
            let text = kernel.memory.text(call.word(1))?;
            let name = thread_name(text);
            kernel.threads.set_name(name);
            Ok(0)
        }
        PR_GET_NAME => {
            kernel.memory.put(call.word(1), kernel.threads.current().name)?;
            Ok(0)
        }
        PR_GET_DUMPABLE => Ok(1),
        PR_CAPBSET_READ if call.word(1) <= 40 => Ok(1),
        PR_GET_KEEPCAPS | PR_GET_NO_NEW_PRIVS => Ok(0),
        PR_GET_PDEATHSIG => {
            kernel.memory.put(call.word(1), 0i32)?;
            Ok(0)
        }
        PR_SET_DUMPABLE | PR_SET_KEEPCAPS if call.word(1) > 1 => Err(errno::EINVAL.into()),
        PR_SET_DUMPABLE | PR_SET_KEEPCAPS | PR_SET_NO_NEW_PRIVS | PR_SET_PDEATHSIG | PR_SET_PTRACER
        | PR_SET_TIMERSLACK | PR_SET_VMA => Ok(0),
        _ => Err(errno::EINVAL.into()),
    }
}

/// A thread's name: fifteen bytes and a zero.
pub fn thread_name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    for (to, from) in name[..15].iter_mut().zip(text.bytes()) {
        *to = from;
    }
    name
}

/// gettimeofday(time, zone)
///
/// # Errors
/// EFAULT.
pub fn gettimeofday(kernel: &mut Kernel, call: Call) -> Outcome {
    let now = kernel.clock.look();
    let wall = kernel.clock.wall(now);
    kernel.memory.put_if_wanted(call.word(0), [wall / NANOSECONDS, wall % NANOSECONDS / MICROSECOND_NANOSECONDS])?;
    kernel.memory.put_if_wanted(call.word(1), [0u32; 2])?;
    Ok(0)
}

/// time(seconds)
///
/// # Errors
/// EFAULT.
pub fn time(kernel: &mut Kernel, call: Call) -> Outcome {
    let now = kernel.clock.look();
    let seconds = kernel.clock.wall(now) / NANOSECONDS;
    kernel.memory.put_if_wanted(call.word(0), seconds)?;
    Ok(seconds)
}

/// Whether a clock is one that runs, and whether it shows the wall clock's time.
fn is_wall_clock(clock: u32) -> Result<bool, Errno> {
    match clock {
        CLOCK_REALTIME | CLOCK_REALTIME_COARSE | CLOCK_REALTIME_ALARM | CLOCK_TAI => Ok(true),
        CLOCK_MONOTONIC
        | CLOCK_MONOTONIC_RAW
        | CLOCK_MONOTONIC_COARSE
        | CLOCK_BOOTTIME
        | CLOCK_BOOTTIME_ALARM
        | CLOCK_PROCESS_CPUTIME_ID
        | CLOCK_THREAD_CPUTIME_ID => Ok(false),
        // The clocks of a process or thread by its number (clock_getcpuclockid): negative numbers.
        other if (other as i32) < 0 => Ok(false),
        _ => Err(errno::EINVAL),
    }
}

/// clock_gettime(clock, time)
///
/// # Errors
/// EINVAL, EFAULT.
pub fn clock_gettime(kernel: &mut Kernel, call: Call) -> Outcome {
    let is_wall_clock = is_wall_clock(call.unsigned(0))?;
    let now = kernel.clock.look();
    let time = if is_wall_clock { kernel.clock.wall(now) } else { now };
    kernel.memory.put(call.word(1), timespec(time))?;
    Ok(0)
}

/// clock_getres(clock, resolution)
///
/// # Errors
/// EINVAL, EFAULT.
pub fn clock_getres(kernel: &mut Kernel, call: Call) -> Outcome {
    /// A tick of 250 Hz, as Debian's kernel has it.
    const COARSE_NANOSECONDS: u64 = 4_000_000;
    is_wall_clock(call.unsigned(0))?;
    let is_coarse = matches!(call.unsigned(0), CLOCK_REALTIME_COARSE | CLOCK_MONOTONIC_COARSE);
    kernel.memory.put_if_wanted(call.word(1), timespec(if is_coarse { COARSE_NANOSECONDS } else { 1 }))?;
    Ok(0)
}

/// getrandom(buffer, length, flags)
///
/// # Errors
/// EINVAL for flags that are not known or exclude each other, EFAULT.
pub fn getrandom(kernel: &mut Kernel, call: Call) -> Outcome {
    let flags = call.unsigned(2);
    let excluded = GRND_RANDOM | GRND_INSECURE;
    if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0 || flags & excluded == excluded {
        return Err(errno::EINVAL.into());
    }
    /// Linux gives no more at once.
    const BYTES_MAX: u64 = 0x1ff_ffff;
    let length = call.word(1).min(BYTES_MAX);
    let buffer = kernel.memory.bytes_mut(call.word(0), length)?;
    kernel.process.fill_random(buffer);
    Ok(length)
}
