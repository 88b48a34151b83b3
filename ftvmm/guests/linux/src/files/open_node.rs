//! What open makes of a node of the tree: a file, directory or device with a place in it.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use linux_raw_sys::general::{SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET, stat};
use linux_raw_sys::ioctl::FIONREAD;

use super::Object;
use super::file_system::{FILE_BYTES_MAX, Kind, Node, empty_status};
use super::image::Image;
use super::special::Device;
use super::tree::Tree;
use super::walk::{Name, Walk};
use crate::kernel::Kernel;
use crate::system_calls::{Errno, Outcome, Stop, errno};

/// An opened node.
pub struct OpenNode {
    /// the node
    pub node: Node,
    /// what it is
    pub kind: Kind,
    /// tells openings of one file from each other
    pub opening: u64,
    position: Cell<u64>,
    /// what a generated file holds: made when it is read from the start
    text: RefCell<Vec<u8>>,
    /// the directory and the name by which it was found
    place: Option<(Node, String)>,
}

impl Kernel {
    /// Opens a node as the lowest free descriptor; `walk` is how it was found.
    ///
    /// # Errors
    /// EMFILE, and as the file system's.
    pub fn open_node(&mut self, node: Node, walk: Option<&Walk>, flags: u32) -> Result<i32, Errno> {
        let place = walk.and_then(|walk| match &walk.name {
            Name::Normal(name) => Some((walk.directory, name.clone())),
            _ => None,
        });
        let tree = &mut self.files.tree;
        let kind = tree.attributes(node)?.kind;
        let opened = OpenNode {
            node,
            kind,
            opening: tree.unique_number(),
            position: Cell::new(0),
            text: RefCell::default(),
            place,
        };
        tree.open(node);
        let installed = self.files.open(Rc::new(opened), flags);
        if installed.is_err() {
            self.files.tree.close(node);
        }
        installed
    }

    /// The wall clock's time, for files that change now: in nanoseconds since 1970.
    pub fn file_time(&self) -> u64 {
        self.clock.wall(self.clock.now())
    }
}

impl OpenNode {
    /// The packed object that it is.
    pub fn image(&self) -> Option<&Image> {
        match &self.kind {
            Kind::Image(image) => Some(image),
            _ => None,
        }
    }

    /// Whether it is a regular file with content of its own.
    pub fn is_regular(&self) -> bool {
        matches!(self.kind, Kind::File | Kind::Image(_))
    }

    /// Whether mmap can map it.
    pub fn can_be_mapped(&self) -> bool {
        self.is_regular() || matches!(self.kind, Kind::Device(Device::Zero))
    }

    /// Whether it can be read and written at a place.
    pub fn has_places(&self) -> bool {
        match self.kind {
            Kind::Device(device) => device.has_places(),
            _ => true,
        }
    }

    /// Where its next read or write begins.
    pub fn position(&self) -> u64 {
        self.position.get()
    }

    /// Moves that place.
    pub fn set_position(&self, position: u64) {
        self.position.set(position);
    }

    /// Its path, as /proc/self/fd says it.
    pub fn path(&self, tree: &Tree) -> String {
        if self.kind.is_directory() {
            return tree.path_of(self.node).unwrap_or_else(|_| self.path_of_removed(tree));
        }
        let Some((directory, name)) = &self.place else { return "/".to_string() };
        match tree.lookup(*directory, name) {
            Ok(Some(node)) if node == self.node => path_in(tree, *directory, name),
            _ => self.path_of_removed(tree),
        }
    }

    fn path_of_removed(&self, tree: &Tree) -> String {
        let path = self.place.as_ref().map_or_else(String::new, |(directory, name)| path_in(tree, *directory, name));
        format!("{path} (deleted)")
    }

    /// The size of a file, in bytes.
    fn size(&self, kernel: &Kernel) -> u64 {
        kernel.files.tree.attributes(self.node).map_or(0, |attributes| attributes.size)
    }
}

fn path_in(tree: &Tree, directory: Node, name: &str) -> String {
    match tree.path_of(directory) {
        Ok(path) if path == "/" => format!("/{name}"),
        Ok(path) => format!("{path}/{name}"),
        Err(_) => name.to_string(),
    }
}

/// Copies what a text holds behind an offset; returns the number of bytes.
fn copy_from(text: &[u8], offset: u64, buffer: &mut [u8]) -> usize {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    let count = (text.len() - start).min(buffer.len());
    buffer[..count].copy_from_slice(&text[start..start + count]);
    count
}

/// Where lseek leads in a file of that size.
///
/// # Errors
/// EINVAL for a place before the start, ENXIO where nothing is behind it.
fn sought(position: u64, size: u64, offset: i64, whence: u32) -> Result<u64, Errno> {
    let base = match whence {
        SEEK_SET => 0,
        SEEK_CUR => position,
        SEEK_END => size,
        SEEK_DATA | SEEK_HOLE => {
            // All is data, and a hole follows.
            let offset = u64::try_from(offset).ok().filter(|offset| *offset < size).ok_or(errno::ENXIO)?;
            return Ok(if whence == SEEK_DATA { offset } else { size });
        }
        _ => return Err(errno::EINVAL),
    };
    base.checked_add_signed(offset).filter(|place| *place <= FILE_BYTES_MAX).ok_or(errno::EINVAL)
}

impl Object for OpenNode {
    fn read(&self, kernel: &mut Kernel, buffer: &mut [u8]) -> Result<usize, Stop> {
        if let Kind::Device(device) = self.kind {
            return device.read(kernel, buffer);
        }
        let count = self.read_at(kernel, self.position(), buffer)?;
        self.set_position(self.position() + count as u64);
        Ok(count)
    }

    fn write(&self, kernel: &mut Kernel, bytes: &[u8]) -> Result<usize, Stop> {
        if let Kind::Device(device) = self.kind {
            return device.write(bytes);
        }
        let count = self.write_at(kernel, self.position(), bytes)?;
        self.set_position(self.position() + count as u64);
        Ok(count)
    }

    fn read_at(&self, kernel: &mut Kernel, offset: u64, buffer: &mut [u8]) -> Result<usize, Stop> {
        match &self.kind {
            Kind::File => Ok(kernel.files.tree.read_at(self.node, offset, buffer)?),
            Kind::Image(image) => image.read_at(offset, buffer).map_err(|error| {
                image.tell();
                error.into()
            }),
            Kind::Directory | Kind::Descriptors => Err(errno::EISDIR.into()),
            Kind::Generated(generated) => {
                let mut text = self.text.borrow_mut();
                if offset == 0 {
                    *text = generated.text(kernel);
                }
                Ok(copy_from(&text, offset, buffer))
            }
            Kind::Device(device) if device.has_places() => device.read(kernel, buffer),
            Kind::Device(_) => Err(errno::ESPIPE.into()),
            Kind::Link | Kind::WorkingDirectory | Kind::Socket => Err(errno::EBADF.into()),
        }
    }

    fn write_at(&self, kernel: &mut Kernel, offset: u64, bytes: &[u8]) -> Result<usize, Stop> {
        match &self.kind {
            Kind::File if bytes.is_empty() => Ok(0),
            Kind::File => {
                let room = FILE_BYTES_MAX.checked_sub(offset).filter(|room| *room > 0).ok_or(errno::EFBIG)?;
                let count = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                let time = kernel.file_time();
                Ok(kernel.files.tree.write_at(self.node, offset, &bytes[..count], time)?)
            }
            Kind::Generated(generated) => Ok(generated.write(bytes)?),
            Kind::Device(device) if device.has_places() => device.write(bytes),
            Kind::Device(_) => Err(errno::ESPIPE.into()),
            _ => Err(errno::EBADF.into()),
        }
    }

    fn seek(&self, kernel: &mut Kernel, offset: i64, whence: u32) -> Result<u64, Errno> {
        if let Kind::Device(device) = self.kind {
            return device.seek(whence);
        }
        if matches!(self.kind, Kind::Generated(_)) && !matches!(whence, SEEK_SET | SEEK_CUR) {
            // Nobody knows how long it will be.
            return Err(errno::EINVAL);
        }
        let place = sought(self.position(), self.size(kernel), offset, whence)?;
        self.set_position(place);
        Ok(place)
    }

    fn metadata(&self, kernel: &Kernel) -> stat {
        match kernel.files.tree.attributes(self.node) {
            Ok(attributes) => attributes.status(self.node),
            Err(_) => empty_status(self.kind.mode(), self.node.number),
        }
    }

    fn control(&self, kernel: &mut Kernel, request: u32, argument: u64) -> Outcome {
        match request {
            FIONREAD if self.is_regular() => {
                let left = self.size(kernel).wrapping_sub(self.position());
                kernel.memory.put(argument, left as i32)?;
                Ok(0)
            }
            _ => match self.kind {
                Kind::Device(device) => Err(device.unknown_request().into()),
                _ => Err(errno::ENOTTY.into()),
            },
        }
    }

    fn synchronise(&self, kernel: &mut Kernel) -> Result<(), Errno> {
        match self.kind {
            Kind::File | Kind::Image(_) | Kind::Directory => kernel.files.tree.synchronise(Some(self.node)),
            _ => Err(errno::EINVAL),
        }
    }

    fn closed(&self, kernel: &mut Kernel) {
        kernel.files.locks.close(self.node, self.opening);
        kernel.files.tree.close(self.node);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_from_the_start_the_place_itself_or_the_end() {
        assert_eq!(sought(5, 10, 3, SEEK_SET), Ok(3));
        assert_eq!(sought(5, 10, 3, SEEK_CUR), Ok(8));
        assert_eq!(sought(5, 10, -3, SEEK_END), Ok(7));
        assert_eq!(sought(5, 10, 100, SEEK_END), Ok(110));
    }

    #[test]
    fn a_place_before_the_start_or_beyond_all_files_is_refused() {
        assert_eq!(sought(5, 10, -1, SEEK_SET), Err(errno::EINVAL));
        assert_eq!(sought(5, 10, -6, SEEK_CUR), Err(errno::EINVAL));
        assert_eq!(sought(5, 10, i64::MAX, SEEK_CUR), Err(errno::EINVAL));
        assert_eq!(sought(5, 10, i64::MIN, SEEK_END), Err(errno::EINVAL));
        assert_eq!(sought(5, 10, 0, 99), Err(errno::EINVAL));
    }

    #[test]
    fn a_hole_begins_where_the_file_ends() {
        assert_eq!(sought(0, 10, 4, SEEK_DATA), Ok(4));
        assert_eq!(sought(0, 10, 4, SEEK_HOLE), Ok(10));
        assert_eq!(sought(0, 10, 10, SEEK_DATA), Err(errno::ENXIO));
        assert_eq!(sought(0, 10, -1, SEEK_HOLE), Err(errno::ENXIO));
    }

    #[test]
    fn a_text_is_copied_from_any_place() {
        let mut buffer = [0; 3];
        assert_eq!(copy_from(b"hello", 3, &mut buffer), 2);
        assert_eq!(&buffer[..2], b"lo");
        assert_eq!(copy_from(b"hello", u64::MAX, &mut buffer), 0);
    }
}
