//! The system calls: one table with each one's state, and what handlers get and return.

use alloc::collections::BTreeSet;

use crate::kernel::Kernel;

/// An error number of Linux (`include/uapi/asm-generic/errno.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u32);

/// The error numbers that the personality gives.
#[expect(missing_docs, reason = "Linux's own names")]
pub mod errno {
    use super::Errno;
    use linux_raw_sys::errno as numbers;

    macro_rules! names {
        ($($name:ident)*) => {
            $(pub const $name: Errno = Errno(numbers::$name);)*
            pub(super) const NAMES: &[(Errno, &str)] = &[$(($name, stringify!($name))),*];
        };
    }
    names! {
        E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF EBUSY ECHILD ECONNABORTED ECONNREFUSED
        ECONNRESET EDEADLK EDESTADDRREQ EDOM EEXIST EFAULT EFBIG EHOSTUNREACH EINPROGRESS EINTR EINVAL EIO EISCONN
        EISDIR ELOOP EMFILE EMSGSIZE ENAMETOOLONG ENETUNREACH ENFILE ENOBUFS ENODATA ENODEV ENOENT ENOEXEC ENOMEM
        ENOPROTOOPT ENOSPC ENOSYS ENOTCONN ENOTDIR ENOTEMPTY ENOTSOCK ENOTTY ENXIO EOPNOTSUPP EOVERFLOW EPERM EPIPE
        EPROTO EPROTONOSUPPORT EPROTOTYPE ERANGE EROFS ESHUTDOWN ESOCKTNOSUPPORT ESPIPE ESRCH ETIMEDOUT ETXTBSY EXDEV
    }
}

impl Errno {
    /// Its name, as in ENOSYS.
    pub fn name(self) -> &'static str {
        errno::NAMES.iter().find(|(error, _)| *error == self).map_or("unknown", |(_, name)| name)
    }
}

/// What a thread that waits waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// anything that changes: the call is tried again then
    Change,
    /// a wake-up of the futex at that address with one of these bits
    Futex {
        /// guest address
        address: u64,
        /// FUTEX_WAIT_BITSET's mask
        bits: u32,
    },
    /// a signal only
    Signal,
}

/// How a thread waits: its call runs again when what it waits for has come, or at `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// what for
    pub on: WaitFor,
    /// in nanoseconds of the monotonic clock, None for ever
    pub until: Option<u64>,
}

/// Why a call has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// it failed
    Error(Errno),
    /// its thread waits; the handler runs again
    Wait(Wait),
    /// the frame is as it should be already: RAX as well
    Resume,
    /// the thread has ended
    Ended,
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Stop {
        Stop::Error(error)
    }
}

impl Stop {
    /// Waits until anything changes, at most until that time.
    pub const fn wait(until: Option<u64>) -> Stop {
        Stop::Wait(Wait { on: WaitFor::Change, until })
    }
}

/// What a handler returns: the result in RAX, or why there is none.
pub type Outcome = Result<u64, Stop>;

/// A system call: its number and its six arguments as the registers hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Call {
    /// RAX
    pub number: u64,
    /// RDI, RSI, RDX, R10, R8, R9
    pub arguments: [u64; 6],
}

impl Call {
    /// An argument of 64 bits.
    pub fn word(&self, index: usize) -> u64 {
        self.arguments[index]
    }

    /// An argument that is an `int`.
    pub fn int(&self, index: usize) -> i32 {
        self.arguments[index] as i32
    }

    /// An argument that is an `unsigned int`.
    pub fn unsigned(&self, index: usize) -> u32 {
        self.arguments[index] as u32
    }
}

/// How far the personality goes with a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// does what Linux does
    Real,
    /// succeeds and does nothing, which no program can tell or all can live with
    Harmless,
    /// fails as Linux does where it is not built in or not allowed
    Refused(Errno),
}

/// A line of the table.
pub struct SystemCall {
    /// the number in RAX
    pub number: u64,
    /// Linux's name
    pub name: &'static str,
    /// how far it goes
    pub state: State,
    /// what differs from Linux, empty where nothing does
    pub note: &'static str,
    handler: fn(&mut Kernel, Call) -> Outcome,
}

fn nothing(_: &mut Kernel, _: Call) -> Outcome {
    Ok(0)
}

macro_rules! table {
    (@entry $number:literal $name:ident real $handler:path, $note:literal) => {
        SystemCall { number: $number, name: stringify!($name), state: State::Real, note: $note, handler: $handler }
    };
    (@entry $number:literal $name:ident harmless, $note:literal) => {
        SystemCall { number: $number, name: stringify!($name), state: State::Harmless, note: $note, handler: nothing }
    };
    (@entry $number:literal $name:ident refused $error:ident, $note:literal) => {
        SystemCall {
            number: $number, name: stringify!($name), state: State::Refused(errno::$error), note: $note,
            handler: |_, _| Err(Stop::Error(errno::$error)),
        }
    };
    ($($number:literal $name:ident $state:ident $(($($what:tt)+))?, $note:literal;)*) => {
        &[$(table!(@entry $number $name $state $($($what)+)?, $note)),*]
    };
}

use crate::{events, files, memory, processes, readiness, signals, sockets, threads};

/// All system calls that are known, by number.
#[rustfmt::skip]
pub static TABLE: &[SystemCall] = table! {
    0 read real(files::calls::read), "";
    1 write real(files::calls::write), "";
    2 open real(files::calls::open), "";
    3 close real(files::calls::close), "";
    4 stat real(files::calls::stat), "";
    5 fstat real(files::calls::fstat), "";
    6 lstat real(files::calls::lstat), "";
    7 poll real(readiness::poll), "";
    8 lseek real(files::calls::lseek), "";
    9 mmap real(memory::mmap), "protections are not enforced; new executable memory is refused";
    10 mprotect real(memory::mprotect), "not enforced; new executable memory is refused";
    11 munmap real(memory::munmap), "";
    12 brk real(memory::brk), "";
    13 rt_sigaction real(signals::rt_sigaction), "";
    14 rt_sigprocmask real(signals::rt_sigprocmask), "";
    15 rt_sigreturn real(signals::rt_sigreturn), "";
    16 ioctl real(files::calls::ioctl), "";
    17 pread64 real(files::calls::pread64), "";
    18 pwrite64 real(files::calls::pwrite64), "";
    19 readv real(files::calls::readv), "";
    20 writev real(files::calls::writev), "";
    21 access real(files::calls::access), "";
    22 pipe real(files::calls::pipe), "";
    23 select real(readiness::select), "";
    24 sched_yield real(threads::sched_yield), "";
    25 mremap real(memory::mremap), "";
    26 msync harmless, "mappings of files are private copies";
    27 mincore refused(ENOSYS), "";
    28 madvise real(memory::madvise), "";
    32 dup real(files::calls::dup), "";
    33 dup2 real(files::calls::dup2), "";
    34 pause real(signals::pause), "";
    35 nanosleep real(threads::nanosleep), "";
    36 getitimer real(signals::getitimer), "ITIMER_REAL only";
    37 alarm real(signals::alarm), "";
    38 setitimer real(signals::setitimer), "ITIMER_REAL only";
    39 getpid real(processes::getpid), "";
    40 sendfile real(files::calls::sendfile), "";
    41 socket real(sockets::socket), "AF_INET and AF_UNIX";
    42 connect real(sockets::connect), "";
    43 accept real(sockets::accept), "";
    44 sendto real(sockets::sendto), "";
    45 recvfrom real(sockets::recvfrom), "";
    46 sendmsg real(sockets::sendmsg), "of control messages SCM_RIGHTS only";
    47 recvmsg real(sockets::recvmsg), "of control messages SCM_RIGHTS only";
    48 shutdown real(sockets::shutdown), "";
    49 bind real(sockets::bind), "";
    50 listen real(sockets::listen), "";
    51 getsockname real(sockets::getsockname), "";
    52 getpeername real(sockets::getpeername), "";
    53 socketpair real(sockets::socketpair), "";
    54 setsockopt real(sockets::setsockopt), "";
    55 getsockopt real(sockets::getsockopt), "";
    56 clone real(threads::clone), "threads only";
    57 fork refused(ENOSYS), "one address space";
    58 vfork refused(ENOSYS), "one address space";
    59 execve refused(ENOSYS), "one address space";
    60 exit real(threads::exit), "";
    61 wait4 refused(ECHILD), "there are no children";
    62 kill real(signals::kill), "to itself";
    63 uname real(processes::uname), "";
    72 fcntl real(files::calls::fcntl), "";
    73 flock real(files::calls::flock), "";
    74 fsync real(files::calls::fsync), "";
    75 fdatasync real(files::calls::fsync), "";
    76 truncate real(files::calls::truncate), "";
    77 ftruncate real(files::calls::ftruncate), "";
    79 getcwd real(files::calls::getcwd), "";
    80 chdir real(files::calls::chdir), "";
    81 fchdir real(files::calls::fchdir), "";
    82 rename real(files::calls::rename), "";
    83 mkdir real(files::calls::mkdir), "";
    84 rmdir real(files::calls::rmdir), "";
    85 creat real(files::calls::creat), "";
    86 link real(files::calls::link), "";
    87 unlink real(files::calls::unlink), "";
    88 symlink real(files::calls::symlink), "";
    89 readlink real(files::calls::readlink), "";
    90 chmod real(files::calls::chmod), "";
    91 fchmod real(files::calls::fchmod), "";
    92 chown real(files::calls::chown), "";
    93 fchown real(files::calls::fchown), "";
    94 lchown real(files::calls::lchown), "";
    95 umask real(files::calls::umask), "";
    96 gettimeofday real(processes::gettimeofday), "";
    97 getrlimit real(processes::getrlimit), "";
    98 getrusage real(processes::getrusage), "all zero but the time";
    99 sysinfo real(processes::sysinfo), "";
    100 times real(processes::times), "";
    102 getuid harmless, "root";
    104 getgid harmless, "root";
    105 setuid harmless, "there is one user";
    106 setgid harmless, "there is one group";
    107 geteuid harmless, "root";
    108 getegid harmless, "root";
    109 setpgid harmless, "there is one process";
    110 getppid real(processes::getppid), "";
    111 getpgrp real(processes::getpid), "";
    112 setsid real(processes::getpid), "";
    113 setreuid harmless, "there is one user";
    114 setregid harmless, "there is one group";
    115 getgroups harmless, "none";
    116 setgroups harmless, "there is one user";
    117 setresuid harmless, "there is one user";
    118 getresuid real(processes::getresuid), "";
    119 setresgid harmless, "there is one group";
    120 getresgid real(processes::getresuid), "";
    121 getpgid real(processes::getpgid), "";
    124 getsid real(processes::getpgid), "";
    126 capset harmless, "there is one user";
    127 rt_sigpending real(signals::rt_sigpending), "";
    128 rt_sigtimedwait real(signals::rt_sigtimedwait), "";
    129 rt_sigqueueinfo real(signals::rt_sigqueueinfo), "to itself";
    130 rt_sigsuspend real(signals::rt_sigsuspend), "";
    131 sigaltstack real(signals::sigaltstack), "";
    132 utime real(files::calls::utime), "";
    137 statfs real(files::calls::statfs), "";
    138 fstatfs real(files::calls::fstatfs), "";
    140 getpriority real(processes::getpriority), "";
    141 setpriority harmless, "there is one process";
    142 sched_setparam harmless, "threads take turns";
    143 sched_getparam real(processes::sched_getparam), "";
    144 sched_setscheduler harmless, "threads take turns";
    145 sched_getscheduler harmless, "SCHED_OTHER";
    146 sched_get_priority_max harmless, "SCHED_OTHER";
    147 sched_get_priority_min harmless, "SCHED_OTHER";
    149 mlock harmless, "nothing is paged out";
    150 munlock harmless, "nothing is paged out";
    151 mlockall harmless, "nothing is paged out";
    152 munlockall harmless, "nothing is paged out";
    157 prctl real(processes::prctl), "names, death signal, dumpable; others fail with EINVAL";
    158 arch_prctl real(threads::arch_prctl), "FS only";
    160 setrlimit real(processes::setrlimit), "RLIMIT_NOFILE is enforced, nothing else";
    162 sync real(files::calls::sync), "";
    165 mount refused(EPERM), "";
    186 gettid real(threads::gettid), "";
    187 readahead harmless, "";
    200 tkill real(signals::tkill), "";
    201 time real(processes::time), "";
    202 futex real(threads::futex::futex), "no priority inheritance";
    203 sched_setaffinity harmless, "there is one processor";
    204 sched_getaffinity real(processes::sched_getaffinity), "";
    206 io_setup refused(ENOSYS), "";
    213 epoll_create real(readiness::epoll_create), "";
    217 getdents64 real(files::calls::getdents64), "";
    218 set_tid_address real(threads::set_tid_address), "";
    221 fadvise64 real(files::calls::fadvise64), "";
    227 clock_settime refused(EPERM), "the host sets the clock";
    228 clock_gettime real(processes::clock_gettime), "";
    229 clock_getres real(processes::clock_getres), "";
    230 clock_nanosleep real(threads::clock_nanosleep), "";
    231 exit_group real(threads::exit_group), "";
    232 epoll_wait real(readiness::epoll_wait), "";
    233 epoll_ctl real(readiness::epoll_ctl), "";
    234 tgkill real(signals::tgkill), "";
    235 utimes real(files::calls::utimes), "";
    247 waitid refused(ECHILD), "there are no children";
    254 inotify_add_watch refused(ENOSYS), "";
    257 openat real(files::calls::openat), "";
    258 mkdirat real(files::calls::mkdirat), "";
    260 fchownat real(files::calls::fchownat), "";
    261 futimesat real(files::calls::futimesat), "";
    262 newfstatat real(files::calls::newfstatat), "";
    263 unlinkat real(files::calls::unlinkat), "";
    264 renameat real(files::calls::renameat), "";
    265 linkat real(files::calls::linkat), "";
    266 symlinkat real(files::calls::symlinkat), "";
    267 readlinkat real(files::calls::readlinkat), "";
    268 fchmodat real(files::calls::fchmodat), "";
    269 faccessat real(files::calls::faccessat), "";
    270 pselect6 real(readiness::pselect6), "";
    271 ppoll real(readiness::ppoll), "";
    273 set_robust_list harmless, "a thread that ends holding a lock is not noticed";
    277 sync_file_range real(files::calls::sync_file_range), "the whole file";
    280 utimensat real(files::calls::utimensat), "";
    281 epoll_pwait real(readiness::epoll_pwait), "";
    282 signalfd real(events::signalfd), "";
    283 timerfd_create real(events::timerfd_create), "";
    284 eventfd real(events::eventfd), "";
    285 fallocate real(files::calls::fallocate), "";
    286 timerfd_settime real(events::timerfd_settime), "";
    287 timerfd_gettime real(events::timerfd_gettime), "";
    288 accept4 real(sockets::accept4), "";
    289 signalfd4 real(events::signalfd4), "";
    290 eventfd2 real(events::eventfd2), "";
    291 epoll_create1 real(readiness::epoll_create1), "";
    292 dup3 real(files::calls::dup3), "";
    293 pipe2 real(files::calls::pipe2), "";
    294 inotify_init1 refused(ENOSYS), "";
    295 preadv real(files::calls::preadv), "";
    296 pwritev real(files::calls::pwritev), "";
    297 rt_tgsigqueueinfo real(signals::rt_tgsigqueueinfo), "";
    299 recvmmsg real(sockets::recvmmsg), "";
    302 prlimit64 real(processes::prlimit64), "RLIMIT_NOFILE is enforced, nothing else";
    303 name_to_handle_at refused(EOPNOTSUPP), "";
    306 syncfs real(files::calls::syncfs), "";
    307 sendmmsg real(sockets::sendmmsg), "waits for the first message only";
    316 renameat2 real(files::calls::renameat2), "RENAME_NOREPLACE only";
    318 getrandom real(processes::getrandom), "";
    319 memfd_create refused(ENOSYS), "";
    324 membarrier refused(ENOSYS), "";
    326 copy_file_range real(files::calls::copy_file_range), "";
    327 preadv2 real(files::calls::preadv2), "flags change nothing";
    328 pwritev2 real(files::calls::pwritev2), "RWF_DSYNC and RWF_SYNC only";
    332 statx real(files::calls::statx), "";
    334 rseq refused(ENOSYS), "";
    425 io_uring_setup refused(ENOSYS), "";
    435 clone3 real(threads::clone3), "threads only";
    436 close_range real(files::calls::close_range), "";
    437 openat2 refused(ENOSYS), "";
    439 faccessat2 real(files::calls::faccessat2), "";
    441 epoll_pwait2 real(readiness::epoll_pwait2), "";
};

/// Numbers from here on are unknown.
const NUMBERS_END: usize = 512;

/// Finds calls by number, and remembers which unknown ones it has told of.
pub struct SystemCalls {
    by_number: [Option<&'static SystemCall>; NUMBERS_END],
    told: BTreeSet<u64>,
}

impl Default for SystemCalls {
    fn default() -> SystemCalls {
        let mut by_number = [None; NUMBERS_END];
        for call in TABLE {
            by_number[call.number as usize] = Some(call);
        }
        SystemCalls { by_number, told: BTreeSet::new() }
    }
}

impl SystemCalls {
    /// The call of that number; an unknown one is said on the console once.
    pub fn find(&mut self, number: u64) -> Option<&'static SystemCall> {
        let found = self.by_number.get(number as usize).copied().flatten();
        if found.is_none() && self.told.insert(number) {
            sdk::println!("linux: unknown system call {number}: refused with ENOSYS");
        }
        found
    }
}

impl SystemCall {
    /// Runs the handler.
    pub fn run(&self, kernel: &mut Kernel, call: Call) -> Outcome {
        (self.handler)(kernel, call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_names_nothing_twice() {
        assert!(TABLE.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(TABLE.last().is_some_and(|last| (last.number as usize) < NUMBERS_END));
    }
}
