//! Guest memory, and what the guest may do with each page of it.
//!
//! The VMM keeps to the same permissions when it reads and writes on the guest's behalf: a hypercall can no more
//! write into code than the guest itself can, or the determinism pass would be worth nothing.

use vm_memory::mmap::MmapRegion;

use super::MachineError;
use super::snapshot::PageSet;

pub(super) const PAGE_BYTES: u64 = 4096;
/// Below, nothing is mapped: a null pointer traps.
pub(super) const GUEST_ADDRESS_MIN: u64 = 0x1_0000;

/// What the guest may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Access {
    pub mapped: bool,
    pub writable: bool,
    pub executable: bool,
}

impl Access {
    pub const READ: Access = Access { mapped: true, writable: false, executable: false };
    pub const READ_WRITE: Access = Access { mapped: true, writable: true, executable: false };
    pub const EXECUTE: Access = Access { mapped: true, writable: false, executable: true };
}

/// A region of memory that a VM is given.
pub(super) struct GuestMemory {
    region: MmapRegion,
    pages: Vec<Access>,
    /// The pages placed, or written on the guest's behalf, since there is this memory or tracking began; `None`: nobody wants to know.
    written: Option<PageSet>,
}

impl GuestMemory {
    /// Reserves zeroed memory; the host provides pages as they are touched.
    pub fn new(bytes: u64) -> Result<GuestMemory, MachineError> {
        let region = MmapRegion::new(bytes as usize)
            .map_err(|error| MachineError::Memory { bytes, reason: error.to_string() })?;
        Ok(GuestMemory {
            region,
            pages: vec![Access::default(); (bytes / PAGE_BYTES) as usize],
            written: Some(PageSet::default()),
        })
    }

    pub fn bytes(&self) -> u64 {
        self.region.size() as u64
    }

    /// Where the region is in the VMM's own address space, for KVM.
    pub fn host_address(&self) -> u64 {
        self.region.as_ptr() as u64
    }

    pub fn pages(&self) -> &[Access] {
        &self.pages
    }

    /// What the guest may do with the page at `address`; `None`: behind its memory.
    pub fn access(&self, address: u64) -> Option<Access> {
        self.pages.get((address / PAGE_BYTES) as usize).copied()
    }

    /// Sets what the guest may do with the pages that `start..end` touches.
    pub fn allow(&mut self, start: u64, end: u64, access: Access) {
        let pages = start / PAGE_BYTES..end.div_ceil(PAGE_BYTES);
        self.pages[pages.start as usize..pages.end as usize].fill(access);
    }

    /// The whole region, whatever the guest may do with it.
    pub fn all(&self) -> &[u8] {
        // SAFETY: the mapping is `size` bytes long, initialised (zero pages) and lives as long as `self`. The vCPU,
        // the only other writer, runs only inside of `Machine::run`, which borrows the machine mutably.
        unsafe { std::slice::from_raw_parts(self.region.as_ptr(), self.region.size()) }
    }

    /// As [`GuestMemory::all`], to be written.
    pub fn all_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `all`, and `&mut self` makes this slice the only one.
        unsafe { std::slice::from_raw_parts_mut(self.region.as_ptr(), self.region.size()) }
    }

    /// Puts what the guest finds there when it begins, whatever it may do with it.
    pub fn place(&mut self, address: u64, content: &[u8]) {
        self.note(address, content.len() as u64);
        self.all_mut()[address as usize..][..content.len()].copy_from_slice(content);
    }

    /// Whether nothing was put into this page since there is this memory, of which no guest has written anything: it is all zero.
    pub fn is_untouched(&self, page: usize) -> bool {
        page < self.pages.len() && self.written.as_ref().is_some_and(|written| !written.contains(page))
    }

    fn note(&mut self, address: u64, length: u64) {
        if let Some(written) = &mut self.written {
            (address / PAGE_BYTES..(address + length).div_ceil(PAGE_BYTES))
                .for_each(|page| written.insert(page as usize));
        }
    }

    /// What the guest sees at `address`, or `None` where it may not read all of it.
    pub fn read(&self, address: u64, length: u64) -> Option<&[u8]> {
        self.allowed(address, length, |access| access.mapped)?;
        self.all().get(address as usize..(address + length) as usize)
    }

    /// The same to be written, or `None` where the guest may not write all of it.
    pub fn write(&mut self, address: u64, length: u64) -> Option<&mut [u8]> {
        self.allowed(address, length, |access| access.writable)?;
        self.note(address, length);
        self.all_mut().get_mut(address as usize..(address + length) as usize)
    }

    /// Notes from now on what is written on the guest's behalf, or notes nothing any more.
    pub fn track_writes(&mut self, tracked: bool) {
        self.written = tracked.then(PageSet::default);
    }

    /// The pages noted since the last call.
    pub fn take_written(&mut self) -> PageSet {
        self.written.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether the guest may write all of `address..address + length`.
    pub fn is_writable(&self, address: u64, length: u64) -> bool {
        self.allowed(address, length, |access| access.writable).is_some()
    }

    /// The bytes at `address` that the guest may execute, at most `length`.
    pub fn code(&self, address: u64, length: u64) -> &[u8] {
        let end = (0..length).take_while(|index| {
            address.checked_add(*index).and_then(|at| self.allowed(at, 1, |access| access.executable)).is_some()
        });
        let length = end.count() as u64;
        self.all().get(address as usize..address.saturating_add(length) as usize).unwrap_or_default()
    }

    fn allowed(&self, address: u64, length: u64, may: impl Fn(&Access) -> bool) -> Option<()> {
        let end = address.checked_add(length).filter(|end| *end <= self.bytes())?;
        let pages = (address / PAGE_BYTES) as usize..end.div_ceil(PAGE_BYTES) as usize;
        self.pages.get(pages)?.iter().all(may).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        let mut memory = GuestMemory::new(8 * PAGE_BYTES).unwrap();
        memory.allow(PAGE_BYTES, 2 * PAGE_BYTES, Access::READ);
        memory.allow(2 * PAGE_BYTES, 4 * PAGE_BYTES, Access::READ_WRITE);
        memory.allow(4 * PAGE_BYTES, 5 * PAGE_BYTES, Access::EXECUTE);
        memory
    }

    #[test]
    fn pages_of_no_access_are_not_read() {
        assert!(memory().read(PAGE_BYTES - 1, 2).is_none());
        assert!(memory().read(PAGE_BYTES, PAGE_BYTES).is_some());
    }

    #[test]
    fn code_and_constants_are_not_written() {
        let mut memory = memory();
        assert!(memory.write(2 * PAGE_BYTES - 1, 2).is_none());
        assert!(memory.write(4 * PAGE_BYTES - 1, 2).is_none());
        assert!(memory.write(2 * PAGE_BYTES, 2 * PAGE_BYTES).is_some());
    }

    #[test]
    fn what_was_put_into_a_page_is_known_from_the_beginning() {
        let mut memory = memory();
        memory.place(PAGE_BYTES - 1, &[1, 2]);
        assert!(memory.write(3 * PAGE_BYTES, 1).is_some());
        let untouched: Vec<usize> = (0..9).filter(|page| memory.is_untouched(*page)).collect();
        assert_eq!(untouched, [2, 4, 5, 6, 7]);
        memory.track_writes(false);
        assert!((0..9).all(|page| !memory.is_untouched(page)), "nobody knows any more");
    }

    #[test]
    fn lengths_that_wrap_around_are_refused() {
        let mut memory = memory();
        assert!(memory.read(2 * PAGE_BYTES, u64::MAX).is_none());
        assert!(memory.write(u64::MAX, 2).is_none());
        assert!(memory.read(u64::MAX, 0).is_none());
    }

    #[test]
    fn code_ends_where_execution_does() {
        assert_eq!(memory().code(5 * PAGE_BYTES - 3, 15).len(), 3);
        assert!(memory().code(u64::MAX - 2, 15).is_empty());
    }
}
