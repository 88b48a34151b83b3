//! /proc and /sys, as far as programs ask: files whose content is made when they are read.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::x86_64::__cpuid;
use core::fmt::Write;

use linux_raw_sys::general::{PROC_SUPER_MAGIC, SYSFS_MAGIC};

use super::DESCRIPTORS_MAX;
use super::ram::{Body, Ram};
use super::setup::put;
use crate::clock::NANOSECONDS;
use crate::kernel::Kernel;
use crate::memory::PAGE_BYTES;
use crate::processes::{RELEASE, TICKS};
use crate::start::STACK_BYTES;
use crate::system_calls::{Errno, errno};
use crate::threads::PROCESS;

/// What a file of /proc or /sys tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// always the same
    Text(&'static str),
    /// the program's arguments
    Arguments,
    /// the program's environment
    Environment,
    /// the first thread's name
    Name,
    /// the ranges of memory that the program uses
    Maps,
    /// the process in words
    Status,
    /// the process in numbers
    Stat,
    /// the process's memory in pages
    Pages,
    /// the process's limits
    Limits,
    /// how willingly it would be ended: can be written, and means nothing
    Adjustment,
    /// mounted file systems
    Mounts,
    /// mounted file systems with more about each
    MountInformation,
    /// memory
    Memory,
    /// the processor
    Processors,
    /// what the system has done
    SystemStat,
    /// the time since the start
    Uptime,
    /// the kernel's release
    Release,
    /// the kernel's version
    Version,
}

use Generated::{
    Adjustment, Arguments, Environment, Limits, Maps, Memory, MountInformation, Mounts, Name, Pages, Processors,
    Release, Stat, Status, SystemStat, Text, Uptime, Version,
};

/// Files in the process's directory.
const PROCESS_FILES: &[(&str, Generated)] = &[
    ("cgroup", Text("0::/\n")),
    ("cmdline", Arguments),
    ("comm", Name),
    ("environ", Environment),
    ("limits", Limits),
    ("maps", Maps),
    ("mountinfo", MountInformation),
    ("mounts", Mounts),
    ("oom_score", Text("0\n")),
    ("oom_score_adj", Adjustment),
    ("stat", Stat),
    ("statm", Pages),
    ("status", Status),
];

/// Files in /proc.
const SYSTEM_FILES: &[(&str, Generated)] = &[
    ("cpuinfo", Processors),
    ("filesystems", Text("nodev\ttmpfs\nnodev\tproc\nnodev\tsysfs\n\text4\n")),
    ("loadavg", Text("0.00 0.00 0.00 1/1 2\n")),
    ("meminfo", Memory),
    ("stat", SystemStat),
    ("sys/fs/file-max", Text("9223372036854775807\n")),
    ("sys/fs/nr_open", Text("1048576\n")),
    ("sys/fs/pipe-max-size", Text("1048576\n")),
    ("sys/kernel/cap_last_cap", Text("40\n")),
    ("sys/kernel/hostname", Text("ftvmm\n")),
    ("sys/kernel/ngroups_max", Text("65536\n")),
    ("sys/kernel/osrelease", Release),
    ("sys/kernel/ostype", Text("Linux\n")),
    ("sys/kernel/pid_max", Text("4194304\n")),
    ("sys/net/core/somaxconn", Text("4096\n")),
    ("sys/net/ipv4/ip_local_port_range", Text("32768\t60999\n")),
    ("sys/net/ipv4/tcp_max_syn_backlog", Text("4096\n")),
    ("sys/vm/max_map_count", Text("65530\n")),
    ("sys/vm/overcommit_memory", Text("1\n")),
    ("uptime", Uptime),
    ("version", Version),
];

/// Files in /sys.
const DEVICE_FILES: &[(&str, Generated)] = &[
    ("devices/system/clocksource/clocksource0/available_clocksource", Text("tsc\n")),
    ("devices/system/clocksource/clocksource0/current_clocksource", Text("tsc\n")),
    ("devices/system/cpu/online", Text("0\n")),
    ("devices/system/cpu/possible", Text("0\n")),
    ("devices/system/cpu/present", Text("0\n")),
    ("kernel/mm/transparent_hugepage/enabled", Text("always madvise [never]\n")),
];

/// The file system of /proc.
///
/// # Errors
/// None.
pub fn proc_file_system(program: &'static str, time: u64) -> Result<Ram, Errno> {
    let mut ram = Ram::named("proc", PROC_SUPER_MAGIC, u64::MAX);
    for (path, generated) in SYSTEM_FILES {
        put(&mut ram, path, Body::Generated(*generated), 0o444, time)?;
    }
    let mut own = |name: &str, body, permissions| put(&mut ram, &format!("{PROCESS}/{name}"), body, permissions, time);
    for (name, generated) in PROCESS_FILES {
        own(name, Body::Generated(*generated), if *generated == Adjustment { 0o644 } else { 0o444 })?;
    }
    own("exe", Body::Link(program.into()), 0o777)?;
    own("root", Body::Link("/".into()), 0o777)?;
    own("cwd", Body::WorkingDirectory, 0o777)?;
    own("fd", Body::Descriptors(0), 0o500)?;
    put(&mut ram, "self", Body::Link(format!("{PROCESS}").into()), 0o777, time)?;
    put(&mut ram, "mounts", Body::Link("self/mounts".into()), 0o777, time)?;
    ram.fix();
    Ok(ram)
}

/// The file system of /sys.
///
/// # Errors
/// None.
pub fn system_file_system(time: u64) -> Result<Ram, Errno> {
    let mut ram = Ram::named("sysfs", SYSFS_MAGIC, u64::MAX);
    for (path, generated) in DEVICE_FILES {
        put(&mut ram, path, Body::Generated(*generated), 0o444, time)?;
    }
    ram.fix();
    Ok(ram)
}

/// All and used memory of the program, in bytes.
fn total_and_used(kernel: &Kernel) -> (u64, u64) {
    let (total, free) = kernel.memory.total_and_free();
    (total, total.saturating_sub(free))
}

/// The first thread's name.
fn process_name(kernel: &Kernel) -> String {
    let first = kernel.threads.iter().find(|thread| thread.tid == PROCESS);
    let name = first.map_or([0; 16], |thread| thread.name);
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..length]).into_owned()
}

/// Texts, each with a zero behind it.
fn with_zeros(texts: &[&str]) -> String {
    texts.iter().flat_map(|text| [*text, "\0"]).collect()
}

impl Generated {
    /// What can be read there now.
    pub fn text(self, kernel: &Kernel) -> Vec<u8> {
        let text = match self {
            Text(text) => text.into(),
            Arguments => with_zeros(&kernel.files.tree.program.arguments),
            Environment => with_zeros(&kernel.files.tree.program.environment),
            Name => process_name(kernel) + "\n",
            Maps => maps(kernel),
            Status => status(kernel),
            Stat => stat(kernel),
            Pages => {
                let used = total_and_used(kernel).1 / PAGE_BYTES;
                format!("{used} {used} 0 0 0 {used} 0\n")
            }
            Limits => limits(kernel),
            Adjustment => "0\n".into(),
            Release => format!("{RELEASE}\n"),
            Version => format!("Linux version {RELEASE} (ftvmm) #1\n"),
            Mounts => mounts(kernel),
            MountInformation => mount_information(kernel),
            Memory => memory(kernel),
            Processors => processors(),
            SystemStat => system_stat(kernel),
            Uptime => {
                let hundredths = kernel.clock.now() / (NANOSECONDS / 100);
                format!("{}.{:02} 0.00\n", hundredths / 100, hundredths % 100)
            }
        };
        text.into_bytes()
    }

    /// Takes what is written there, which changes nothing.
    ///
    /// # Errors
    /// EIO where it cannot be written.
    pub fn write(self, bytes: &[u8]) -> Result<usize, Errno> {
        if self == Adjustment { Ok(bytes.len()) } else { Err(errno::EIO) }
    }
}

/// proc(5): address, permissions, offset, device, inode and path of each range.
fn maps(kernel: &Kernel) -> String {
    let mut text = String::new();
    let mut line = |start: u64, end: u64, permissions: &str, path: &str| {
        if start < end {
            let _ = writeln!(text, "{start:08x}-{end:08x} {permissions} 00000000 00:00 0 {path:>25}");
        }
    };
    for image in kernel.files.tree.images() {
        line(image.base, image.base + image.span_bytes, "rwxp", image.path);
    }
    let (heap, mapped) = kernel.memory.used_ranges();
    line(heap.start, heap.end, "rw-p", "[heap]");
    for (index, range) in mapped.iter().enumerate() {
        // The first thread's stack was the first to be taken from the stock.
        let stack_end = if index == 0 { (range.start + STACK_BYTES).min(range.end) } else { range.start };
        line(range.start, stack_end, "rw-p", "[stack]");
        line(stack_end, range.end, "rw-p", "");
    }
    text
}

fn status(kernel: &Kernel) -> String {
    let used = total_and_used(kernel).1 >> 10;
    let name = process_name(kernel);
    let threads = kernel.threads.iter().count();
    let (umask, parent) = (kernel.files.tree.umask, PROCESS - 1);
    format!(
        "Name:\t{name}\nUmask:\t{umask:04o}\nState:\tR (running)\nTgid:\t{PROCESS}\nNgid:\t0\nPid:\t{PROCESS}\n\
         PPid:\t{parent}\nTracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t64\nGroups:\t \n\
         VmPeak:\t{used:8} kB\nVmSize:\t{used:8} kB\nVmLck:\t       0 kB\nVmPin:\t       0 kB\n\
         VmHWM:\t{used:8} kB\nVmRSS:\t{used:8} kB\nVmData:\t{used:8} kB\nVmStk:\t{stack:8} kB\nVmSwap:\t       0 kB\n\
         Threads:\t{threads}\nNoNewPrivs:\t0\nSeccomp:\t0\nCpus_allowed:\t1\nCpus_allowed_list:\t0\n",
        stack = STACK_BYTES >> 10,
    )
}

/// proc(5): 52 fields.
fn stat(kernel: &Kernel) -> String {
    let used = total_and_used(kernel).1;
    let name = process_name(kernel);
    let (threads, ticks) = (kernel.threads.iter().count(), kernel.clock.now() / (NANOSECONDS / TICKS));
    let (parent, pages, limit) = (PROCESS - 1, used / PAGE_BYTES, u64::MAX);
    format!(
        "{PROCESS} ({name}) R {parent} {PROCESS} {PROCESS} 0 -1 4194304 0 0 0 0 {ticks} 0 0 0 20 0 {threads} 0 0 {used} \
         {pages} {limit} 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    )
}

fn limits(kernel: &Kernel) -> String {
    let unlimited = || String::from("unlimited");
    let (stack, descriptors) = (format!("{STACK_BYTES}"), format!("{}", kernel.files.limit()));
    let rows = [
        ("Max cpu time", unlimited(), unlimited(), "seconds"),
        ("Max file size", unlimited(), unlimited(), "bytes"),
        ("Max data size", unlimited(), unlimited(), "bytes"),
        ("Max stack size", stack, unlimited(), "bytes"),
        ("Max core file size", unlimited(), unlimited(), "bytes"),
        ("Max processes", unlimited(), unlimited(), "processes"),
        ("Max open files", descriptors, format!("{DESCRIPTORS_MAX}"), "files"),
        ("Max address space", unlimited(), unlimited(), "bytes"),
    ];
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (name, soft, hard, unit) in rows {
        let _ = writeln!(text, "{name:<25} {soft:<20} {hard:<20} {unit:<10}");
    }
    text
}

fn mounts(kernel: &Kernel) -> String {
    let mounts = kernel.files.tree.mounts();
    mounts.map(|(source, path, name)| format!("{source} {path} {name} rw,noatime 0 0\n")).collect()
}

fn mount_information(kernel: &Kernel) -> String {
    let mounts = kernel.files.tree.mounts().enumerate();
    let line = |(index, (source, path, name))| {
        let (parent, device) = (u64::from(index != 0), super::file_system::Node { mount: index, number: 0 }.device());
        format!("{} {parent} 0:{device} / {path} rw,noatime - {name} {source} rw\n", index + 1)
    };
    mounts.map(line).collect()
}

fn memory(kernel: &Kernel) -> String {
    let (total, free) = kernel.memory.total_and_free();
    let mut text = String::new();
    for (name, kibibytes) in [
        ("MemTotal", total >> 10),
        ("MemFree", free >> 10),
        ("MemAvailable", free >> 10),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Shmem", 0),
        ("HugePages_Total", 0),
    ] {
        let name = format!("{name}:");
        let _ = writeln!(text, "{name:<15} {kibibytes:8} kB");
    }
    text
}

/// What the processor says of itself that programs look for in /proc/cpuinfo: bits of leaf 1, EDX and ECX, by the names
/// that Linux has for them.
fn processors() -> String {
    const BASIC: &[(u32, &str)] = &[
        (0, "fpu"),
        (4, "tsc"),
        (8, "cx8"),
        (15, "cmov"),
        (19, "clflush"),
        (23, "mmx"),
        (24, "fxsr"),
        (25, "sse"),
        (26, "sse2"),
    ];
    const MORE: &[(u32, &str)] = &[
        (0, "pni"),
        (1, "pclmulqdq"),
        (9, "ssse3"),
        (13, "cx16"),
        (19, "sse4_1"),
        (20, "sse4_2"),
        (22, "movbe"),
        (23, "popcnt"),
        (25, "aes"),
    ];
    let (first, second) = (__cpuid(0), __cpuid(1));
    let vendor: Vec<u8> = [first.ebx, first.edx, first.ecx].iter().flat_map(|word| word.to_le_bytes()).collect();
    let vendor = String::from_utf8_lossy(&vendor);
    let family = (second.eax >> 8 & 0xf) + (second.eax >> 20 & 0xff);
    let model = (second.eax >> 4 & 0xf) | (second.eax >> 12 & 0xf0);
    let has = |word: u32, names: &[(u32, &'static str)]| -> Vec<&'static str> {
        names.iter().filter(|(bit, _)| word >> bit & 1 != 0).map(|(_, name)| *name).collect()
    };
    let flags = [has(second.edx, BASIC), has(second.ecx, MORE)].concat().join(" ");
    let stepping = second.eax & 0xf;
    format!(
        "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: ftvmm\n\
         stepping\t: {stepping}\nphysical id\t: 0\nsiblings\t: 1\ncore id\t\t: 0\ncpu cores\t: 1\nfpu\t\t: yes\n\
         flags\t\t: {flags}\nclflush size\t: 64\ncache_alignment\t: 64\naddress sizes\t: 40 bits physical, 48 bits virtual\n\n"
    )
}

fn system_stat(kernel: &Kernel) -> String {
    let (now, threads) = (kernel.clock.now(), kernel.threads.iter().count());
    let (ticks, start) = (now / (NANOSECONDS / TICKS), kernel.clock.wall(0) / NANOSECONDS);
    format!(
        "cpu  {ticks} 0 0 0 0 0 0 0 0 0\ncpu0 {ticks} 0 0 0 0 0 0 0 0 0\nintr 0\nctxt 0\nbtime {start}\nprocesses 1\n\
         procs_running {threads}\nprocs_blocked 0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::file_system::FileSystem;
    use super::*;

    #[test]
    fn proc_has_the_process_under_its_number_and_as_self() {
        let ram = proc_file_system("/bin/program", 0).unwrap();
        let root = ram.root();
        let link = ram.lookup(root, "self").unwrap().unwrap();
        let own = ram.lookup(root, &ram.read_link(link).unwrap()).unwrap().unwrap();
        let program = ram.lookup(own, "exe").unwrap().unwrap();
        assert_eq!(ram.read_link(program).unwrap(), "/bin/program");
        assert!(ram.lookup(own, "stat").unwrap().is_some());
    }

    #[test]
    fn nothing_can_be_added_to_proc_or_removed() {
        let mut ram = proc_file_system("/bin/program", 0).unwrap();
        let root = ram.root();
        assert_eq!(ram.create(root, "new", &super::super::file_system::New::File, 0o644, 0), Err(errno::ENOENT));
        assert_eq!(ram.remove(root, "version", 0), Err(errno::EPERM));
    }

    #[test]
    fn only_the_adjustment_can_be_written() {
        assert_eq!(Adjustment.write(b"500"), Ok(3));
        assert_eq!(Text("x").write(b"500"), Err(errno::EIO));
    }

    #[test]
    fn texts_have_a_zero_behind_each() {
        assert_eq!(with_zeros(&["a", "", "b"]), "a\0\0b\0");
    }
}
