//! A block device in a regular file or a block device of the host.
//!
//! It is read and written past the page cache: a process that is killed leaves nothing of the disk for its kernel to write later. What
//! others have in the cache (a backup program) is neither read here nor written over what is written here: the kernel sees to that,
//! open(2), O_DIRECT.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::iter;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::DeviceError;
use crate::lock::Mutex;
use crate::machine::{SECTOR_BYTES, check_sectors};

const KIND: &str = "block device";
const NOT_DIRECT: &str = "its file system takes no direct I/O (O_DIRECT), without which a write may wait in this host's page cache and \
                          land after one of the other host: put it on another, such as ext4, XFS or NFS";

/// Whose a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// A pair's: nothing of it may wait in the page cache of either host.
    Shared,
    /// This host's alone: where its file system takes no direct I/O (tmpfs before Linux 6.6) the page cache does no harm.
    Own,
}

/// An open image. A write is on the disk when it returns (O_DSYNC).
///
/// One thread reads and another writes, each one thing at a time.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    name: String,
    capacity_bytes: u64,
    unit_bytes: u64,
    /// Two of them, so that no read waits for a write elsewhere on the disk.
    read_buffer: Mutex<AlignedBuffer>,
    write_buffer: Mutex<AlignedBuffer>,
}

impl BlockFile {
    /// Opens an image for reading and writing; its size is the capacity.
    ///
    /// # Errors
    /// What is wrong with it: it cannot be opened, is no disk, too small or no whole number of the guest's sectors, or its file
    /// system does not do what `sharing` asks for.
    pub fn open(path: &Path, sharing: Sharing, sector_bytes: u16) -> Result<BlockFile, DeviceError> {
        let name = path.display().to_string();
        let wrong = |reason: String| DeviceError::Open { kind: KIND, name: name.clone(), reason };
        let failed = |error: io::Error| wrong(error.to_string());
        // First of all: open(2) says of a terminal, too, that it takes no direct I/O.
        let kind = fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(wrong("it is neither a regular file nor a block device".into()));
        }
        let (mut file, alignment) = match (open_direct(path).map_err(failed)?, sharing) {
            (Some(opened), _) => opened,
            (None, Sharing::Shared) => return Err(wrong(NOT_DIRECT.into())),
            (None, Sharing::Own) => (open(path, 0).map_err(failed)?, Alignment::at_least(0, 0)),
        };
        // A block device's metadata has no size.
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let Alignment { memory_bytes, unit_bytes } = alignment;
        check_size(bytes, sector_bytes, unit_bytes).map_err(wrong)?;
        let buffer = || Mutex::new(AlignedBuffer::new(memory_bytes));
        Ok(BlockFile { file, name, capacity_bytes: bytes, unit_bytes, read_buffer: buffer(), write_buffer: buffer() })
    }

    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// The disk is read and written in whole units of so many bytes: usually a sector, or what its file system asks for.
    pub fn unit_bytes(&self) -> u64 {
        self.unit_bytes
    }

    /// Whether the disk can be read.
    ///
    /// # Errors
    /// What the disk says.
    pub fn check(&self) -> Result<(), DeviceError> {
        self.read(0, u32::from(SECTOR_BYTES)).map(drop)
    }

    /// Reads `length` bytes at `offset`.
    pub fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, DeviceError> {
        let around = self.whole_units(offset, u64::from(length));
        let mut buffer = self.read_buffer.lock();
        let bytes = buffer.window(length_of(&around));
        self.file.read_exact_at(bytes, around.start).map_err(|source| self.failed("read", source))?;
        Ok(bytes[length_of(&(around.start..offset))..][..length as usize].to_vec())
    }

    /// Writes `data`, of one byte or more, at `offset`; it is on the disk when this returns.
    ///
    /// What else lies in its first and its last unit is read before, and written once more as it is: no other write may come between.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let end = offset + data.len() as u64;
        let around = self.whole_units(offset, data.len() as u64);
        let mut buffer = self.write_buffer.lock();
        let bytes = buffer.window(length_of(&around));
        let place = |at: u64| length_of(&(around.start..at));
        let (first, last) = (around.start, around.end - self.unit_bytes);
        for unit in iter::once(first).chain((last != first).then_some(last)) {
            let next = unit + self.unit_bytes;
            if unit < offset || end < next {
                let old = &mut bytes[place(unit)..place(next)];
                self.file.read_exact_at(old, unit).map_err(|source| self.failed("read", source))?;
            }
        }
        bytes[place(offset)..place(end)].copy_from_slice(data);
        self.file.write_all_at(bytes, around.start).map_err(|source| self.failed("write", source))
    }

    /// The units that these bytes lie in.
    fn whole_units(&self, offset: u64, length: u64) -> Range<u64> {
        let start = offset - offset % self.unit_bytes;
        start..(offset + length).next_multiple_of(self.unit_bytes)
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> DeviceError {
        DeviceError::Failed { kind: KIND, name: self.name.clone(), operation, source }
    }
}

fn length_of(bytes: &Range<u64>) -> usize {
    (bytes.end - bytes.start) as usize
}

fn open(path: &Path, flag: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DSYNC | flag).open(path)
}

/// Opens it past the page cache; `None`: its file system takes no direct I/O.
fn open_direct(path: &Path) -> io::Result<Option<(File, Alignment)>> {
    let file = match open(path, libc::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
        opened => opened?,
    };
    Ok(Alignment::of(&file)?.map(|alignment| (file, alignment)))
}

/// What is wrong with a file's size, for a disk that is read and written in such units.
fn check_size(file_bytes: u64, sector_bytes: u16, unit_bytes: u64) -> Result<(), String> {
    check_sectors(file_bytes, sector_bytes)?;
    if !file_bytes.is_multiple_of(unit_bytes) {
        // Its last unit could not be written without making the file longer.
        let longer = file_bytes.next_multiple_of(unit_bytes);
        return Err(format!(
            "its file system takes direct I/O (O_DIRECT) in units of {unit_bytes} bytes only, and its {file_bytes} bytes are no whole \
             number of them: make it {longer} bytes long"
        ));
    }
    Ok(())
}

/// What the kernel asks of direct I/O to a file.
#[derive(Clone, Copy, Debug)]
struct Alignment {
    /// Where its memory begins is a multiple of this, a power of two.
    memory_bytes: usize,
    /// Its offset and its length are multiples of this.
    unit_bytes: u64,
}

impl Alignment {
    /// Memory begins at a page, too, so that a transfer goes over as few as possible; and a unit is a sector or more.
    fn at_least(memory_bytes: usize, unit_bytes: u64) -> Alignment {
        Alignment { memory_bytes: memory_bytes.max(4096), unit_bytes: unit_bytes.max(u64::from(SECTOR_BYTES)) }
    }

    /// `None`: the file takes no direct I/O although it could be opened for it.
    fn of(file: &File) -> io::Result<Option<Alignment>> {
        // NFS takes any bytes. What newer kernels tell there, a page, is what a server beneath may like best.
        let told = if is_on_nfs(file) { None } else { told_alignment(file) };
        Ok(match told {
            Some((_, 0)) => None,
            Some((memory_bytes, unit_bytes)) => Some(Alignment::at_least(memory_bytes, unit_bytes)),
            None if file.metadata()?.file_type().is_block_device() => {
                Some(Alignment::at_least(0, logical_block_bytes(file)?))
            }
            None => tried_unit_bytes(file)?.map(|unit_bytes| Alignment::at_least(0, unit_bytes)),
        })
    }
}

fn is_on_nfs(file: &File) -> bool {
    // SAFETY: it is made of numbers, for which zero is a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the structure and keeps nothing of it.
    let status = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) };
    status == 0 && found.f_type == libc::NFS_SUPER_MAGIC
}

/// The alignment of memory, and that of offset and length, as statx(2) tells them for most files since Linux 6.1; 0: no direct I/O.
fn told_alignment(file: &File) -> Option<(usize, u64)> {
    // SAFETY: it is made of numbers, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string; the kernel fills the structure and keeps nothing of it.
    let status = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut found)
    };
    let is_told = status == 0 && found.stx_mask & libc::STATX_DIOALIGN != 0;
    is_told.then_some((found.stx_dio_mem_align as usize, u64::from(found.stx_dio_offset_align)))
}

fn logical_block_bytes(device: &File) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel fills the number and keeps nothing of it.
    match unsafe { libc::ioctl(device.as_raw_fd(), libc::BLKSSZGET, &raw mut bytes) } {
        0 => Ok(u64::from(bytes.unsigned_abs())),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The smallest unit in which the file can be read; `None`: none of those that there are.
fn tried_unit_bytes(file: &File) -> io::Result<Option<u64>> {
    let mut buffer = AlignedBuffer::new(4096);
    for unit_bytes in [u64::from(SECTOR_BYTES), 4096] {
        match file.read_at(buffer.window(unit_bytes as usize), 0) {
            Ok(_) => return Ok(Some(unit_bytes)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("failed to read: {error}"))),
        }
    }
    Ok(None)
}

/// Memory for direct I/O, kept from one transfer to the next.
#[derive(Debug)]
struct AlignedBuffer {
    /// Longer than what is used of it, so that an aligned place of that length lies in it.
    bytes: Vec<u8>,
    alignment_bytes: usize,
}

impl AlignedBuffer {
    fn new(alignment_bytes: usize) -> AlignedBuffer {
        AlignedBuffer { bytes: Vec::new(), alignment_bytes }
    }

    /// So many bytes that begin at a multiple of the alignment; they may hold what was there before.
    fn window(&mut self, length: usize) -> &mut [u8] {
        if self.bytes.len() < length + self.alignment_bytes {
            self.bytes.resize(length + self.alignment_bytes, 0);
        }
        let start = self.bytes.as_ptr().align_offset(self.alignment_bytes);
        &mut self.bytes[start..start + length]
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A new file of zeros beside the test's program: a temporary directory may lie in memory, where the page cache is the file itself.
    fn new_file(name: &str, bytes: u64) -> PathBuf {
        let program = std::env::current_exe().unwrap();
        let path = program.with_file_name(format!("block-{name}-{}", std::process::id()));
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// Which pages of a file the page cache holds, dirty or not.
    fn cached_pages(path: &Path) -> Vec<bool> {
        let file = File::open(path).unwrap();
        let bytes = file.metadata().unwrap().len() as usize;
        let mut pages = vec![0; bytes.div_ceil(4096)];
        // SAFETY: the mapping is new and nobody's, and nothing is read of it; `pages` has a byte for each of its pages.
        unsafe {
            let mapping =
                libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
            assert_ne!(mapping, libc::MAP_FAILED);
            assert_eq!(libc::mincore(mapping, bytes, pages.as_mut_ptr()), 0);
            assert_eq!(libc::munmap(mapping, bytes), 0);
        }
        pages.iter().map(|page| page & 1 == 1).collect()
    }

    /// How much this thread has written until now, by proc(5).
    fn written_bytes() -> u64 {
        let counts = fs::read_to_string("/proc/thread-self/io").unwrap();
        counts.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let path = new_file("sectors", 1024);
        let block = BlockFile::open(&path, Sharing::Own, SECTOR_BYTES).unwrap();
        assert_eq!(block.capacity_bytes(), 1024);
        block.write(512, &[7; 512]).unwrap();
        assert_eq!(block.read(510, 4).unwrap(), [0, 0, 7, 7]);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn nothing_of_a_disk_waits_in_the_page_cache() {
        let path = new_file("cache", 16 << 12);
        let block = BlockFile::open(&path, Sharing::Shared, SECTOR_BYTES).unwrap();
        block.write(512, &[1; 8192]).unwrap();
        assert_eq!(block.read(512, 8192).unwrap(), [1; 8192]);
        block.check().unwrap();
        assert_eq!(cached_pages(&path), [false; 16]);
        // Who reads the file otherwise sees it, and is seen, at once; and fills the cache.
        assert_eq!(fs::read(&path).unwrap()[512..8704], [1; 8192]);
        assert_eq!(cached_pages(&path), [true; 16]);
        block.write(4096, &[2; 8192]).unwrap();
        assert_eq!(cached_pages(&path)[1..3], [false; 2]);
        assert_eq!(fs::read(&path).unwrap()[4096..12288], [2; 8192]);
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[3; 512], 4096).unwrap();
        assert_eq!(block.read(4096, 512).unwrap(), [3; 512]);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_write_takes_up_whole_units_and_leaves_what_lies_beside_it() {
        let path = new_file("units", 16 << 12);
        let mut expected: Vec<u8> = (0..16 << 12).map(|at| (at / 512) as u8).collect();
        fs::write(&path, &expected).unwrap();
        let mut block = BlockFile::open(&path, Sharing::Shared, SECTOR_BYTES).unwrap();
        block.unit_bytes = 4096;
        let writes = [
            (512, 512, 1),
            (0, 512, 1),
            (3584, 512, 1),
            (3584, 1024, 2),
            (1024, 12 << 10, 4),
            (4096, 8192, 2),
            (8192, 4608, 2),
            (7680, 4608, 2),
            ((16 << 12) - 512, 512, 1),
        ];
        for (byte, (offset, length, units)) in (200..).zip(writes) {
            let before = written_bytes();
            block.write(offset as u64, &vec![byte; length]).unwrap();
            assert_eq!(written_bytes() - before, units * 4096, "{length} bytes at {offset}");
            expected[offset..offset + length].fill(byte);
            assert!(fs::read(&path).unwrap() == expected, "{length} bytes at {offset}");
            assert!(block.read(offset as u64, length as u32).unwrap() == vec![byte; length]);
        }
        assert_eq!(block.read(512, 512).unwrap(), [200; 512]);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_disk_ends_with_a_sector_and_a_unit() {
        assert_eq!(check_size(1536, 512, 512), Ok(()));
        assert!(check_size(511, 512, 512).unwrap_err().contains("less than a sector"));
        assert!(check_size(1500, 512, 512).unwrap_err().contains("no whole number of sectors of 512"));
        assert!(check_size(2048, 4096, 512).unwrap_err().contains("less than a sector of 4096"));
        assert!(check_size(6144, 4096, 512).unwrap_err().contains("no whole number of sectors of 4096"));
        assert_eq!(check_size(8192, 512, 4096), Ok(()));
        assert!(check_size(8704, 512, 4096).unwrap_err().contains("make it 12288 bytes long"));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let refusal = |path, sharing| BlockFile::open(Path::new(path), sharing, SECTOR_BYTES).unwrap_err().to_string();
        assert!(refusal("/dev/null", Sharing::Shared).contains("neither"));
        assert!(refusal("/nonexistent", Sharing::Shared).contains("No such file"));
        // A regular file of a file system that takes no direct I/O; nor has it a size.
        let said = refusal("/proc/self/comm", Sharing::Shared);
        assert!(said.contains("\"/proc/self/comm\" cannot be opened: its file system takes no direct I/O"), "{said}");
        assert!(!refusal("/proc/self/comm", Sharing::Own).contains("direct"));
    }
}
