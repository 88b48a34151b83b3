//! Packed ELF objects: files whose segments lie at their places in the image already, and how files are mapped.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use linux_raw_sys::general::{O_ACCMODE, O_RDWR, O_WRONLY};
use package::{Content, File, Pristine};

use super::OpenFile;
use super::open_node::OpenNode;
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::system_calls::{Errno, errno};

/// A packed ELF object.
pub struct Image {
    /// where the file is
    pub path: &'static str,
    /// the guest address of its first page
    pub base: u64,
    /// from its first to behind its last page, in bytes
    pub span_bytes: u64,
    /// the length of the file in bytes
    pub file_bytes: u64,
    /// the file's first bytes, which are all that can be read
    head: &'static [u8],
    writable: Vec<Pristine<'static>>,
    has_told: Cell<bool>,
}

impl Image {
    /// The object in that file, None where the file is none.
    pub fn new(file: &File<'static>) -> Option<Image> {
        match &file.content {
            Content::Object { base, span_bytes, file_bytes, head, writable } => Some(Image {
                path: file.path,
                base: *base,
                span_bytes: *span_bytes,
                file_bytes: *file_bytes,
                head,
                writable: writable.clone(),
                has_told: Cell::new(false),
            }),
            _ => None,
        }
    }

    /// Reads from the file's first bytes.
    ///
    /// # Errors
    /// EIO behind them.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        if offset >= self.file_bytes || buffer.is_empty() {
            return Ok(0);
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.head.len());
        let bytes = &self.head[start..];
        if bytes.is_empty() {
            return Err(errno::EIO);
        }
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// Says on the console, once, that the rest of the file is not here.
    pub fn tell(&self) {
        if !self.has_told.replace(true) {
            sdk::println!("linux: {}: only the first {} bytes are in the image", self.path, self.head.len());
        }
    }

    /// Makes the writable segments what they were at first.
    ///
    /// # Errors
    /// EFAULT where they are not the program's.
    pub fn restore(&self, memory: &Memory) -> Result<(), Errno> {
        for segment in &self.writable {
            let bytes = memory.bytes_mut(segment.address, segment.memory_bytes)?;
            let count = segment.bytes.len().min(bytes.len());
            bytes[..count].copy_from_slice(&segment.bytes[..count]);
            bytes[count..].fill(0);
        }
        Ok(())
    }
}

/// What mmap maps.
pub enum MappedObject {
    /// a packed object: it lies there already
    Image {
        /// guest address of its first page
        base: u64,
    },
    /// a file that is to be read
    File(Rc<OpenFile>),
}

impl Kernel {
    /// The file that mmap is asked for.
    ///
    /// # Errors
    /// EBADF; EACCES where the descriptor does not allow it; ENODEV where the file cannot be mapped, among that shared
    /// and writable.
    pub fn file_to_map(&mut self, descriptor: i32, is_shared_and_writable: bool) -> Result<MappedObject, Errno> {
        let file = self.files.get_usable(descriptor)?;
        let access = file.flags.get() & O_ACCMODE;
        if access == O_WRONLY || (is_shared_and_writable && access != O_RDWR) {
            return Err(errno::EACCES);
        }
        let opened = file.kind::<OpenNode>().ok_or(errno::ENODEV)?;
        if let Some(image) = opened.image() {
            return Ok(MappedObject::Image { base: image.base });
        }
        if !opened.can_be_mapped() {
            return Err(errno::ENODEV);
        }
        if is_shared_and_writable && opened.is_regular() {
            sdk::println!("linux: a file is to be mapped shared and writable, and would not see the changes: ENODEV");
            return Err(errno::ENODEV);
        }
        Ok(MappedObject::File(file))
    }

    /// Makes the writable segments of the packed object at `base` what they were at first, for a program that maps it
    /// again.
    ///
    /// # Errors
    /// ENODEV where no object lies there.
    pub fn restore_image(&mut self, base: u64) -> Result<(), Errno> {
        let image = self.files.tree.images().iter().find(|image| image.base == base);
        image.ok_or(errno::ENODEV)?.restore(&self.memory)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn only_the_head_of_an_object_can_be_read() {
        let content =
            Content::Object { base: 0x1000, span_bytes: 0x2000, file_bytes: 100, head: b"\x7fELF", writable: vec![] };
        let image = Image::new(&File { path: "/lib/x.so", permissions: 0o755, modified_s: None, content }).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(image.read_at(1, &mut buffer), Ok(3));
        assert_eq!(&buffer[..3], b"ELF");
        assert_eq!(image.read_at(4, &mut buffer), Err(errno::EIO));
        assert_eq!(image.read_at(4, &mut []), Ok(0));
        assert_eq!(image.read_at(100, &mut buffer), Ok(0));
    }
}
