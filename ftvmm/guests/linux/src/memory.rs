//! The program's memory: which addresses it may use, mappings, and how system calls read and write there.
//!
//! Guest memory is mapped one to one and is readable and writable from the start; what a program maps is taken from one
//! stock of pages. Protections are not enforced.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::mem::{MaybeUninit, size_of};
use core::ops::Range;

use linux_raw_sys::general::{
    MADV_DONTFORK, MADV_DONTNEED, MADV_FREE, MADV_NORMAL, MADV_POPULATE_WRITE, MADV_WILLNEED, MAP_ANONYMOUS, MAP_FIXED,
    MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, MREMAP_FIXED, MREMAP_MAYMOVE, PROT_EXEC, PROT_WRITE,
};
use package::{Content, Package};

use crate::files::tree::MappedObject;
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, errno};

/// The size of a page in bytes.
pub const PAGE_BYTES: u64 = 4096;
/// brk gets a quarter of memory: programs that use it seldom need more, and mmap has the rest.
const BREAK_PARTS: u64 = 4;
/// Where a program's addresses end on Linux (TASK_SIZE).
const ADDRESSES_END: u64 = (1 << 47) - PAGE_BYTES;
/// Longer paths are refused (PATH_MAX).
const PATH_BYTES_MAX: u64 = 4096;

fn whole_pages(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(PAGE_BYTES)
}

/// What the program may use.
pub struct Memory {
    /// free ranges, start to end
    free: BTreeMap<u64, u64>,
    /// what mappings are taken from
    stock: Range<u64>,
    /// nothing from here on was ever used: it is zero
    used_end: u64,
    break_start: u64,
    break_now: u64,
    break_end: u64,
    /// the packed objects, from the first to behind the last byte
    objects: Range<u64>,
    /// parts of them that may be written
    writable: Vec<Range<u64>>,
    /// objects that the program has unmapped, by their first address
    unmapped: BTreeSet<u64>,
}

impl Memory {
    /// The memory from `start` to `end` is the program's, and the objects of its package.
    pub fn new(start: u64, end: u64, package: &Package) -> Memory {
        let writable = package.files.iter().filter_map(|file| match &file.content {
            Content::Object { writable, .. } => Some(writable),
            _ => None,
        });
        let writable = writable.flatten().map(|one| one.address..one.address + one.memory_bytes).collect();
        let break_end = start + (end - start) / BREAK_PARTS / PAGE_BYTES * PAGE_BYTES;
        Memory {
            free: BTreeMap::from([(break_end, end)]),
            stock: break_end..end,
            used_end: break_end,
            break_start: start,
            break_now: start,
            break_end,
            objects: package.objects.0..package.objects.1,
            writable,
            unmapped: BTreeSet::new(),
        }
    }

    /// All bytes that the program could ever have, and those that are free now.
    pub fn total_and_free(&self) -> (u64, u64) {
        let free: u64 = self.free.iter().map(|(start, end)| end - start).sum();
        (self.stock.end - self.break_start, free + self.break_end - self.break_now)
    }

    /// What the program uses: the break, and the mapped parts of the stock in ascending order.
    pub fn used_ranges(&self) -> (Range<u64>, Vec<Range<u64>>) {
        let mut mapped = Vec::new();
        let mut start = self.stock.start;
        for (free, free_end) in
            self.free.iter().map(|(free, end)| (*free, *end)).chain([(self.stock.end, self.stock.end)])
        {
            if start < free {
                mapped.push(start..free);
            }
            start = free_end;
        }
        (self.break_start..self.break_now, mapped)
    }

    fn is_mapped(&self, address: u64, end: u64) -> bool {
        if address >= self.break_start && end <= self.break_now {
            return true;
        }
        let is_in_stock = address >= self.stock.start && end <= self.stock.end;
        is_in_stock && self.free.range(..end).next_back().is_none_or(|(_, free_end)| *free_end <= address)
    }

    fn is_readable(&self, address: u64, end: u64) -> bool {
        (address >= self.objects.start && end <= self.objects.end) || self.is_mapped(address, end)
    }

    fn is_writable(&self, address: u64, end: u64) -> bool {
        self.writable.iter().any(|range| address >= range.start && end <= range.end) || self.is_mapped(address, end)
    }

    /// Bytes of the program, to be read. They are valid while the handler runs, and must not be kept beyond it.
    ///
    /// # Errors
    /// EFAULT where the program has no such memory.
    pub fn bytes(&self, address: u64, length: u64) -> Result<&'static [u8], Errno> {
        if length == 0 {
            return Ok(&[]);
        }
        let end = address.checked_add(length).ok_or(errno::EFAULT)?;
        if !self.is_readable(address, end) {
            return Err(errno::EFAULT);
        }
        let start = core::ptr::with_exposed_provenance(address as usize);
        // SAFETY: the range is the program's, which is no Rust object and does not run while a handler does.
        Ok(unsafe { core::slice::from_raw_parts(start, length as usize) })
    }

    /// The same, to be written: at most one slice at a time.
    ///
    /// # Errors
    /// EFAULT where the program has no such memory or may not write it.
    pub fn bytes_mut(&self, address: u64, length: u64) -> Result<&'static mut [u8], Errno> {
        if length == 0 {
            return Ok(&mut []);
        }
        let end = address.checked_add(length).ok_or(errno::EFAULT)?;
        if !self.is_writable(address, end) {
            return Err(errno::EFAULT);
        }
        let start = core::ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: as in `bytes`; handlers hold one such slice at a time.
        Ok(unsafe { core::slice::from_raw_parts_mut(start, length as usize) })
    }

    /// A structure of Linux's ABI in the program's memory, at any alignment.
    ///
    /// # Errors
    /// EFAULT.
    pub fn get<T: Copy>(&self, address: u64) -> Result<T, Errno> {
        let bytes = self.bytes(address, size_of::<T>() as u64)?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: both are `size_of::<T>()` bytes; T is a structure of integers, for which all bytes are valid.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), bytes.len());
            Ok(value.assume_init())
        }
    }

    /// Writes such a structure.
    ///
    /// # Errors
    /// EFAULT.
    pub fn put<T>(&self, address: u64, value: T) -> Result<(), Errno> {
        let bytes = self.bytes_mut(address, size_of::<T>() as u64)?;
        let source = core::ptr::from_ref(&value).cast::<u8>();
        // SAFETY: both are `size_of::<T>()` bytes. Padding may be anything; nobody reads it as a value.
        unsafe { core::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// The same, where a null pointer says that the program does not want it.
    ///
    /// # Errors
    /// EFAULT.
    pub fn put_if_wanted<T>(&self, address: u64, value: T) -> Result<(), Errno> {
        if address == 0 { Ok(()) } else { self.put(address, value) }
    }

    /// A path or name: the bytes before the first zero.
    ///
    /// # Errors
    /// EFAULT; ENAMETOOLONG where there is no zero within 4,096 bytes; ENOENT where it is not UTF-8, as no packed file
    /// has such a name.
    pub fn text(&self, address: u64) -> Result<&'static str, Errno> {
        let mut length = 0;
        while length < PATH_BYTES_MAX {
            // Up to the end of the page at a time: the next one may not be there.
            let chunk = PAGE_BYTES - (address + length) % PAGE_BYTES;
            let bytes = self.bytes(address.checked_add(length).ok_or(errno::EFAULT)?, chunk)?;
            match bytes.iter().position(|byte| *byte == 0) {
                Some(at) => {
                    let all = self.bytes(address, length + at as u64)?;
                    return core::str::from_utf8(all).map_err(|_| errno::ENOENT);
                }
                None => length += chunk,
            }
        }
        Err(errno::ENAMETOOLONG)
    }

    /// Takes pages anywhere, zeroed; the length is in bytes and whole pages.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn take(&mut self, length: u64) -> Result<u64, Errno> {
        let found = self.free.iter().find(|(start, end)| **end - **start >= length);
        let start = found.map(|(start, _)| *start).ok_or(errno::ENOMEM)?;
        self.take_at(start, length);
        Ok(start)
    }

    /// Takes these pages, whatever they were, and zeroes them.
    fn take_at(&mut self, address: u64, length: u64) {
        let end = address + length;
        let overlapping: Vec<(u64, u64)> = self
            .free
            .range(..end)
            .rev()
            .take_while(|(_, free_end)| **free_end > address)
            .map(|(start, free_end)| (*start, *free_end))
            .collect();
        for (start, free_end) in overlapping {
            self.free.remove(&start);
            if start < address {
                self.free.insert(start, address);
            }
            if free_end > end {
                self.free.insert(end, free_end);
            }
        }
        // Above `used_end` memory is as the host gave it.
        let dirty = length.min(self.used_end.saturating_sub(address));
        if let Ok(bytes) = self.bytes_mut(address, dirty) {
            bytes.fill(0);
        }
        self.used_end = self.used_end.max(end);
    }

    fn is_free(&self, address: u64, length: u64) -> bool {
        self.free.range(..=address).next_back().is_some_and(|(_, end)| *end >= address + length)
    }

    /// Gives pages back; what is not from the stock stays as it is.
    fn give_back(&mut self, address: u64, length: u64) {
        let (mut start, mut end) = (address.max(self.stock.start), (address + length).min(self.stock.end));
        if start >= end {
            return;
        }
        while let Some((other, other_end)) = self.free.range(..=end).next_back().map(|(start, end)| (*start, *end)) {
            if other_end < start {
                break;
            }
            self.free.remove(&other);
            start = start.min(other);
            end = end.max(other_end);
        }
        self.free.insert(start, end);
    }

    /// Zeroes whole pages, those between holes as well.
    fn zero(&self, address: u64, length: u64) -> Result<(), Errno> {
        if let Ok(bytes) = self.bytes_mut(address, length) {
            bytes.fill(0);
            return Ok(());
        }
        for page in (address..address + length).step_by(PAGE_BYTES as usize) {
            if let Ok(bytes) = self.bytes_mut(page, PAGE_BYTES) {
                bytes.fill(0);
            }
        }
        Err(errno::EFAULT)
    }

    fn is_within_objects(&self, address: u64, length: u64) -> bool {
        address >= self.objects.start && address + length <= self.objects.end
    }
}

/// Checks an address and a length as munmap and its kin do; the length comes back in whole pages.
fn pages(address: u64, length: u64) -> Result<u64, Errno> {
    let is_within = |whole: &u64| *whole > 0 && address.checked_add(*whole).is_some_and(|end| end <= ADDRESSES_END);
    let whole = whole_pages(length).filter(is_within);
    if address.is_multiple_of(PAGE_BYTES) { whole.ok_or(errno::EINVAL) } else { Err(errno::EINVAL) }
}

/// mmap(address, length, protection, flags, descriptor, offset)
///
/// # Errors
/// As mmap(2); ENOMEM for executable memory that the image does not hold, ENODEV for a part of an object that lies in it.
pub fn mmap(kernel: &mut Kernel, call: Call) -> Outcome {
    let (address, protection, flags) = (call.word(0), call.unsigned(2), call.unsigned(3));
    let (length, offset) = (whole_pages(call.word(1)).ok_or(errno::ENOMEM)?, call.word(5));
    if length == 0 || !offset.is_multiple_of(PAGE_BYTES) || flags & (MAP_PRIVATE | MAP_SHARED) == 0 {
        return Err(errno::EINVAL.into());
    }
    let is_fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    if is_fixed && (!address.is_multiple_of(PAGE_BYTES) || address.checked_add(length).is_none()) {
        return Err(errno::EINVAL.into());
    }
    let mapped = match flags & MAP_ANONYMOUS {
        0 => Some(kernel.file_to_map(call.int(4), flags & MAP_SHARED != 0 && protection & PROT_WRITE != 0)?),
        _ => None,
    };
    // The dynamic loader maps a library piece by piece; the packer has laid out all of it.
    if is_fixed && kernel.memory.is_within_objects(address, length) {
        return Ok(address);
    }
    if let Some(MappedObject::Image { base }) = mapped {
        if offset != 0 {
            return Err(errno::ENODEV.into());
        }
        if kernel.memory.unmapped.remove(&base) {
            // dlclose and dlopen: what the library wrote into itself is not there any more.
            kernel.restore_image(base)?;
        }
        return Ok(base);
    }
    if protection & PROT_EXEC != 0 {
        return Err(errno::ENOMEM.into());
    }
    let memory = &mut kernel.memory;
    let is_in_stock = |address: u64| address >= memory.stock.start && address + length <= memory.stock.end;
    let at = if is_fixed {
        if !is_in_stock(address) {
            return Err(errno::ENOMEM.into());
        }
        if flags & MAP_FIXED_NOREPLACE != 0 && !memory.is_free(address, length) {
            return Err(errno::EEXIST.into());
        }
        memory.take_at(address, length);
        address
    } else if address.is_multiple_of(PAGE_BYTES) && is_in_stock(address) && memory.is_free(address, length) {
        memory.take_at(address, length);
        address
    } else {
        memory.take(length)?
    };
    if let Some(MappedObject::File(file)) = mapped {
        let into = kernel.memory.bytes_mut(at, length)?;
        let mut filled = 0;
        while filled < into.len() {
            match file.object.read_at(kernel, offset + filled as u64, &mut into[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
    }
    Ok(at)
}

/// munmap(address, length)
///
/// # Errors
/// EINVAL.
pub fn munmap(kernel: &mut Kernel, call: Call) -> Outcome {
    let (address, length) = (call.word(0), pages(call.word(0), call.word(1))?);
    if kernel.memory.is_within_objects(address, length) {
        kernel.memory.unmapped.insert(address);
    }
    kernel.memory.give_back(address, length);
    Ok(0)
}

/// mprotect(address, length, protection)
///
/// # Errors
/// EINVAL; EACCES for memory that is to be both written and executed.
pub fn mprotect(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.word(1) == 0 && call.word(0).is_multiple_of(PAGE_BYTES) {
        return Ok(0);
    }
    let length = pages(call.word(0), call.word(1))?;
    let is_code = kernel.memory.is_within_objects(call.word(0), length);
    if call.unsigned(2) & PROT_EXEC != 0 && (!is_code || call.unsigned(2) & PROT_WRITE != 0) {
        return Err(errno::EACCES.into());
    }
    if !kernel.memory.is_readable(call.word(0), call.word(0) + length) {
        return Err(errno::ENOMEM.into());
    }
    Ok(0)
}

/// brk(address): where the break is afterwards.
///
/// # Errors
/// None.
pub fn brk(kernel: &mut Kernel, call: Call) -> Outcome {
    let memory = &mut kernel.memory;
    let wanted = call.word(0);
    if (memory.break_start..=memory.break_end).contains(&wanted) {
        if let Some(freed) = memory.break_now.checked_sub(wanted)
            && let Ok(bytes) = memory.bytes_mut(wanted, freed)
        {
            // What is given back is zero when it comes again.
            bytes.fill(0);
        }
        memory.break_now = wanted;
    }
    Ok(memory.break_now)
}

/// mremap(address, old length, new length, flags, new address)
///
/// # Errors
/// As mremap(2); EINVAL for MREMAP_FIXED.
pub fn mremap(kernel: &mut Kernel, call: Call) -> Outcome {
    let (address, flags) = (call.word(0), call.unsigned(3));
    let (old, new) = (pages(address, call.word(1))?, pages(address, call.word(2))?);
    if flags & !MREMAP_MAYMOVE != 0 || flags & MREMAP_FIXED != 0 {
        return Err(errno::EINVAL.into());
    }
    let memory = &mut kernel.memory;
    if address < memory.stock.start || !memory.is_mapped(address, address + old) {
        return Err(errno::EFAULT.into());
    }
    if new <= old {
        memory.give_back(address + new, old - new);
        return Ok(address);
    }
    if memory.is_free(address + old, new - old) {
        memory.take_at(address + old, new - old);
        return Ok(address);
    }
    if flags & MREMAP_MAYMOVE == 0 {
        return Err(errno::ENOMEM.into());
    }
    let moved = memory.take(new)?;
    let from = memory.bytes(address, old)?;
    memory.bytes_mut(moved, old)?.copy_from_slice(from);
    memory.give_back(address, old);
    Ok(moved)
}

/// madvise(address, length, advice)
///
/// # Errors
/// EINVAL; ENOMEM where nothing is mapped.
pub fn madvise(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.word(1) == 0 {
        return Ok(0);
    }
    let (address, length) = (call.word(0), pages(call.word(0), call.word(1))?);
    match call.unsigned(2) {
        // Programs count on zeros behind DONTNEED; behind FREE either is right.
        MADV_DONTNEED | MADV_FREE => kernel.memory.zero(address, length).map_err(|_| errno::ENOMEM)?,
        MADV_NORMAL..=MADV_WILLNEED | MADV_DONTFORK..=MADV_POPULATE_WRITE => {}
        _ => return Err(errno::EINVAL.into()),
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn memory() -> Memory {
        let program = package::Program { path: "/p", headers: 0, header_count: 0, entry: 0, loader: 0, start: 0 };
        let package = Package {
            arguments: vec![],
            environment: vec![],
            program,
            objects: (0, 0),
            files: vec![],
            has_exact_clock: false,
        };
        // Nothing here is touched: what is taken lies above `used_end`.
        Memory::new(0x10_0000, 0x50_0000, &package)
    }

    #[test]
    fn pages_that_were_given_back_join_their_neighbours() {
        let mut memory = memory();
        memory.used_end = 0;
        let first = memory.take(PAGE_BYTES).unwrap();
        let second = memory.take(2 * PAGE_BYTES).unwrap();
        assert_eq!(second, first + PAGE_BYTES);
        assert!(memory.is_mapped(first, second + 2 * PAGE_BYTES));
        memory.give_back(first, PAGE_BYTES);
        assert!(!memory.is_mapped(first, first + 1));
        assert!(memory.is_mapped(second, second + 1));
        memory.give_back(second, 2 * PAGE_BYTES);
        assert_eq!(memory.free.len(), 1);
    }

    #[test]
    fn a_range_over_free_pages_is_not_mapped() {
        let mut memory = memory();
        let first = memory.take(4 * PAGE_BYTES).unwrap();
        memory.give_back(first + PAGE_BYTES, PAGE_BYTES);
        assert!(!memory.is_mapped(first, first + 4 * PAGE_BYTES));
        assert!(memory.is_mapped(first + 2 * PAGE_BYTES, first + 4 * PAGE_BYTES));
        assert!(memory.bytes(first, 2 * PAGE_BYTES).is_err());
    }
}
