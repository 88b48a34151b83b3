//! The start: settings, the parts of the kernel, and the first thread as the program's start-up code expects it.

use alloc::vec::Vec;
use core::arch::x86_64::__cpuid;

use linux_raw_sys::auxvec::{
    AT_BASE, AT_CLKTCK, AT_EGID, AT_ENTRY, AT_EUID, AT_EXECFN, AT_FLAGS, AT_GID, AT_HWCAP, AT_NULL, AT_PAGESZ, AT_PHDR,
    AT_PHENT, AT_PHNUM, AT_PLATFORM, AT_RANDOM, AT_SECURE, AT_UID,
};
use package::{Package, PackageError};
use sdk::arguments::{Addresses, ArgumentError, Arguments, USAGE_EXIT_STATUS};
use sdk::block::BlockDevice;
use sdk::boot::BootInfo;
use sdk::network::NetworkError;

use crate::clock::Clock;
use crate::entry::{self, Frame};
use crate::files::Files;
use crate::files::disk::{self, MountError};
use crate::files::special::open_console;
use crate::files::tree::Tree;
use crate::kernel::{self, Kernel};
use crate::memory::Memory;
use crate::processes::{Process, TICKS, thread_name};
use crate::sockets::Stack;
use crate::system_calls::Errno;

/// The first thread's stack, in bytes.
pub const STACK_BYTES: u64 = 8 << 20;
/// The heap gets one part of memory in so many: the personality's own, files and socket buffers among it.
pub const HEAP_PARTS: u64 = 4;
/// The size of a program header (Elf64_Phdr).
const PROGRAM_HEADER_BYTES: u64 = 56;

/// Why the program cannot be started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("no program is packed into this image: use `ftvmm pack`")]
    Empty,
    #[error("the package cannot be read: {0}")]
    Package(#[from] PackageError),
    #[error("{0}")]
    Argument(#[from] ArgumentError),
    #[error("{0}")]
    Network(#[from] NetworkError),
    #[error("{0}")]
    Mount(#[from] MountError),
    #[error("there is too little memory: {0} MiB for the program, and it needs {1} MiB for its stack alone")]
    Memory(u64, u64),
    #[error("the arguments do not fit on the stack")]
    Arguments,
}

impl From<Errno> for StartError {
    fn from(_: Errno) -> StartError {
        StartError::Arguments
    }
}

/// Starts the program; returns only where that fails, with the exit status.
///
/// The command line has the guest's own arguments, `--ipv4=10.0.0.2/24` and `--ipv4-gateway=10.0.0.1`, and behind `--`
/// more arguments for the program.
pub fn main(boot_info: &'static BootInfo) -> i32 {
    match start(boot_info) {
        Ok(frame) => {
            // SAFETY: the kernel keeps the frame as long as its thread lives, and `first_frame` has laid its stack out.
            unsafe { entry::start(frame) }
        }
        Err(error) => {
            sdk::println!("linux: {error}");
            if matches!(error, StartError::Argument(_)) { USAGE_EXIT_STATUS } else { 1 }
        }
    }
}

fn start(boot_info: &'static BootInfo) -> Result<*mut Frame, StartError> {
    let package = Package::decode(entry::package_bytes().ok_or(StartError::Empty)?)?;
    let line = boot_info.command_line();
    let (own, more) = line.split_once("-- ").unwrap_or((line.strip_suffix("--").unwrap_or(line), ""));
    let addresses = addresses(boot_info, own)?;

    let clock = Clock::start(boot_info.cycle_frequency, package.has_exact_clock);
    let stack = Stack::open(boot_info, addresses, clock.seed(), clock.now())?;
    let (memory_start, memory_end) = (boot_info.heap_end(HEAP_PARTS), boot_info.free_end() / 4096 * 4096);
    let memory_bytes = memory_end.saturating_sub(memory_start);
    if memory_bytes < 2 * STACK_BYTES {
        return Err(StartError::Memory(memory_bytes >> 20, STACK_BYTES >> 20));
    }
    let memory = Memory::new(memory_start, memory_end, &package);
    // Files may fill three quarters of the heap; the rest is for everything else.
    let capacity = memory_start.saturating_sub(boot_info.image_end) / 4 * 3;
    let time = clock.wall(clock.now());
    let mut tree = Tree::new(&package, capacity, time);
    if let Some(device) = BlockDevice::open(boot_info, disk::DEVICE) {
        disk::mount(&mut tree, device, time)?;
    }
    let mut kernel = Kernel::new(clock, memory, Files::new(tree), stack, Process::start());
    for _ in 0..3 {
        open_console(&mut kernel)?;
    }
    kernel.files.tree.program.arguments.extend(more.split_ascii_whitespace());
    let frame = first_frame(&mut kernel, &package)?;
    let name = package.program.path.rsplit('/').next().unwrap_or_default();
    let frame = kernel.threads.start_first(frame, thread_name(name));
    kernel::install(kernel);
    Ok(frame)
}

/// The guest's addresses: a guest without a network device takes none.
fn addresses(boot_info: &BootInfo, own: &str) -> Result<Option<Addresses>, StartError> {
    let mut arguments = Arguments::parse(own)?;
    let has_network = boot_info.manifest().is_some_and(|manifest| manifest.network("service").is_some());
    let addresses = if has_network { Some(arguments.take_addresses()?) } else { None };
    arguments.finish()?;
    Ok(addresses)
}

/// Writes downwards from the top of a stack.
struct StackWriter<'a> {
    kernel: &'a Kernel,
    pointer: u64,
}

impl StackWriter<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<u64, Errno> {
        self.pointer = self.pointer.saturating_sub(bytes.len() as u64);
        self.kernel.memory.bytes_mut(self.pointer, bytes.len() as u64)?.copy_from_slice(bytes);
        Ok(self.pointer)
    }

    /// A text with its zero.
    fn text(&mut self, text: &str) -> Result<u64, Errno> {
        self.bytes(&[0])?;
        self.bytes(text.as_bytes())
    }
}

/// The first thread's registers and stack. System V ABI for AMD64, section 3.4: argument count, arguments, environment
/// and auxiliary vector from the stack pointer up.
fn first_frame(kernel: &mut Kernel, package: &Package) -> Result<Frame, StartError> {
    let program = &package.program;
    let lowest = kernel.memory.take(STACK_BYTES)?;
    let mut random = [0; 16];
    kernel.process.fill_random(&mut random);
    let mut writer = StackWriter { kernel, pointer: lowest + STACK_BYTES };
    let random = writer.bytes(&random)?;
    let platform = writer.text("x86_64")?;
    let path = writer.text(program.path)?;
    let mut pointers = |texts: &[&str]| texts.iter().map(|text| writer.text(text)).collect::<Result<Vec<u64>, _>>();
    let arguments = pointers(&kernel.files.tree.program.arguments)?;
    let environment = pointers(&package.environment)?;

    let auxiliary = [
        (AT_PHDR, program.headers),
        (AT_PHENT, PROGRAM_HEADER_BYTES),
        (AT_PHNUM, program.header_count),
        (AT_PAGESZ, 4096),
        (AT_BASE, program.loader),
        (AT_FLAGS, 0),
        (AT_ENTRY, program.entry),
        (AT_UID, 0),
        (AT_EUID, 0),
        (AT_GID, 0),
        (AT_EGID, 0),
        (AT_HWCAP, u64::from(__cpuid(1).edx)),
        (AT_CLKTCK, TICKS),
        (AT_PLATFORM, platform),
        (AT_SECURE, 0),
        (AT_RANDOM, random),
        (AT_EXECFN, path),
        (AT_NULL, 0),
    ];
    let mut words: Vec<u64> = alloc::vec![arguments.len() as u64];
    words.extend(arguments.into_iter().chain([0]).chain(environment).chain([0]));
    words.extend(auxiliary.iter().flat_map(|(kind, value)| [u64::from(*kind), *value]));
    // The stack pointer is a multiple of 16 where the program starts.
    writer.pointer = (writer.pointer - words.len() as u64 * 8) & !15;
    let stack = writer.pointer;
    for (index, word) in words.iter().enumerate() {
        kernel.memory.put(stack + index as u64 * 8, *word)?;
    }
    // The thread starts as if a system call returned there.
    kernel.memory.put(stack - 8, program.start)?;
    Ok(Frame { rsp: stack - 8, ..Frame::default() })
}
