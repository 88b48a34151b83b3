//! Open files: descriptors, what each of them stands for, and the interface that every kind of file has.

pub mod calls;
mod contents;
mod copies;
mod descriptors;
mod directories;
pub mod disk;
pub mod file_system;
mod image;
mod lengths;
mod locks;
mod names;
mod open;
pub mod open_node;
mod paths;
pub mod pipes;
mod proc;
mod properties;
pub mod ram;
mod setup;
pub mod special;
mod status;
#[cfg(test)]
mod tests;
pub mod tree;
pub mod walk;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::Cell;

use linux_raw_sys::general::{EPOLLIN, EPOLLOUT, O_NONBLOCK, O_PATH, stat};

use crate::kernel::Kernel;
use crate::readiness::Activity;
use crate::system_calls::{Errno, Outcome, Stop, errno};

/// Descriptors go up to here (RLIMIT_NOFILE).
pub const DESCRIPTORS_MAX: usize = 10_240;

/// A kind of file. All methods but a few have the answer of a file that cannot do it.
///
/// A method that would have to wait returns [`Stop::Wait`]; the caller turns that into EAGAIN where the descriptor does
/// not block. It may run again after a wait, so it changes nothing before it knows that it will not wait.
pub trait Object: Any {
    /// Takes bytes out; 0 at the end.
    ///
    /// # Errors
    /// Where nothing can be read, or not now.
    fn read(&self, _kernel: &mut Kernel, _buffer: &mut [u8]) -> Result<usize, Stop> {
        Err(errno::EINVAL.into())
    }

    /// Puts bytes in; may take a part of them.
    ///
    /// # Errors
    /// Where nothing can be written, or not now.
    fn write(&self, _kernel: &mut Kernel, _bytes: &[u8]) -> Result<usize, Stop> {
        Err(errno::EINVAL.into())
    }

    /// Reads at a place, without a look at the file's own offset.
    ///
    /// # Errors
    /// Where the file has no places.
    fn read_at(&self, _kernel: &mut Kernel, _offset: u64, _buffer: &mut [u8]) -> Result<usize, Stop> {
        Err(errno::ESPIPE.into())
    }

    /// Writes at a place.
    ///
    /// # Errors
    /// Where the file has no places.
    fn write_at(&self, _kernel: &mut Kernel, _offset: u64, _bytes: &[u8]) -> Result<usize, Stop> {
        Err(errno::ESPIPE.into())
    }

    /// Moves the file's own offset as lseek does; returns the new one.
    ///
    /// # Errors
    /// Where the file has none, or the place is before its start.
    fn seek(&self, _kernel: &mut Kernel, _offset: i64, _whence: u32) -> Result<u64, Errno> {
        Err(errno::ESPIPE)
    }

    /// What can be done without waiting: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR, EPOLLRDHUP.
    fn ready(&self, _kernel: &Kernel) -> u32 {
        EPOLLIN | EPOLLOUT
    }

    /// When that changes by itself, in nanoseconds of the monotonic clock.
    fn next_deadline(&self, _kernel: &Kernel) -> Option<u64> {
        None
    }

    /// What has arrived, data or room, for epoll: whether something has since it looked, and in which order.
    fn activity(&self, _kernel: &Kernel) -> Activity {
        Activity::default()
    }

    /// What fstat says.
    fn metadata(&self, kernel: &Kernel) -> stat;

    /// ioctl other than FIONBIO and FIOCLEX.
    ///
    /// # Errors
    /// ENOTTY where the file does not know the request.
    fn control(&self, _kernel: &mut Kernel, _request: u32, _argument: u64) -> Outcome {
        Err(errno::ENOTTY.into())
    }

    /// Writes what is not on the device yet.
    ///
    /// # Errors
    /// EINVAL where there is nothing to write to, EIO where the device failed.
    fn synchronise(&self, _kernel: &mut Kernel) -> Result<(), Errno> {
        Err(errno::EINVAL)
    }

    /// The last descriptor has been closed.
    fn closed(&self, _kernel: &mut Kernel) {}

    /// The kind itself, for calls that know only one.
    fn as_any(&self) -> &dyn Any;
}

/// An open file description: what one open, socket or pipe call has made; dup shares it.
pub struct OpenFile {
    /// what it is
    pub object: Rc<dyn Object>,
    /// access mode and status flags: O_RDONLY, O_WRONLY, O_RDWR, O_APPEND, O_NONBLOCK, O_PATH
    pub flags: Cell<u32>,
}

impl OpenFile {
    /// Whether calls return EAGAIN where they would wait.
    pub fn is_nonblocking(&self) -> bool {
        self.flags.get() & O_NONBLOCK != 0
    }

    /// The kind, or None where it is another one.
    pub fn kind<T: 'static>(&self) -> Option<&T> {
        self.object.as_any().downcast_ref()
    }

    /// What a method said, as the system call says it: EAGAIN in place of a wait where the descriptor does not block.
    ///
    /// # Errors
    /// As the method.
    pub fn unless_nonblocking<T>(&self, result: Result<T, Stop>) -> Result<T, Stop> {
        match result {
            Err(Stop::Wait(_)) if self.is_nonblocking() => Err(errno::EAGAIN.into()),
            other => other,
        }
    }
}

/// One descriptor.
#[derive(Clone)]
pub struct Descriptor {
    /// what it stands for
    pub file: Rc<OpenFile>,
    /// FD_CLOEXEC, which matters to nobody but F_GETFD
    pub closes_on_exec: bool,
}

/// The descriptors of the process, and the file system.
pub struct Files {
    descriptors: Vec<Option<Descriptor>>,
    /// all files that have names
    pub tree: tree::Tree,
    /// locks on them
    pub locks: locks::Locks,
    limit: usize,
}

impl Files {
    /// No descriptors yet.
    pub fn new(tree: tree::Tree) -> Files {
        Files { descriptors: Vec::new(), tree, locks: locks::Locks::default(), limit: DESCRIPTORS_MAX }
    }

    /// New descriptors are below this (RLIMIT_NOFILE's soft limit).
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Sets that limit; those that are open stay.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(DESCRIPTORS_MAX);
    }

    /// What a descriptor stands for.
    ///
    /// # Errors
    /// EBADF.
    pub fn get(&self, descriptor: i32) -> Result<Rc<OpenFile>, Errno> {
        self.descriptor(descriptor).map(|found| found.file.clone())
    }

    /// The same, but for one that was opened for its path only (O_PATH), which most calls refuse.
    ///
    /// # Errors
    /// EBADF.
    pub fn get_usable(&self, descriptor: i32) -> Result<Rc<OpenFile>, Errno> {
        self.get(descriptor).and_then(|file| if file.flags.get() & O_PATH == 0 { Ok(file) } else { Err(errno::EBADF) })
    }

    /// The descriptor itself.
    ///
    /// # Errors
    /// EBADF.
    pub fn descriptor(&self, descriptor: i32) -> Result<&Descriptor, Errno> {
        let index = usize::try_from(descriptor).map_err(|_| errno::EBADF)?;
        self.descriptors.get(index).and_then(Option::as_ref).ok_or(errno::EBADF)
    }

    /// As [`Files::descriptor`], to be changed.
    ///
    /// # Errors
    /// EBADF.
    pub fn descriptor_mut(&mut self, descriptor: i32) -> Result<&mut Descriptor, Errno> {
        let index = usize::try_from(descriptor).map_err(|_| errno::EBADF)?;
        self.descriptors.get_mut(index).and_then(Option::as_mut).ok_or(errno::EBADF)
    }

    /// The lowest free descriptor from `from` on gets this file.
    ///
    /// # Errors
    /// EMFILE.
    pub fn install(&mut self, file: Rc<OpenFile>, closes_on_exec: bool, from: usize) -> Result<i32, Errno> {
        let index = self.lowest_free(from)?;
        if index >= self.descriptors.len() {
            self.descriptors.resize(index + 1, None);
        }
        self.descriptors[index] = Some(Descriptor { file, closes_on_exec });
        Ok(index as i32)
    }

    /// The lowest free descriptor from `from` on.
    ///
    /// # Errors
    /// EMFILE.
    pub fn lowest_free(&self, from: usize) -> Result<usize, Errno> {
        let free = (from..self.descriptors.len()).find(|index| self.descriptors[*index].is_none());
        let index = free.unwrap_or_else(|| self.descriptors.len().max(from));
        if index < self.limit { Ok(index) } else { Err(errno::EMFILE) }
    }

    /// Opens an object: the lowest free descriptor, with flags of open (O_CLOEXEC among them).
    ///
    /// # Errors
    /// EMFILE.
    pub fn open(&mut self, object: Rc<dyn Object>, flags: u32) -> Result<i32, Errno> {
        let closes_on_exec = flags & linux_raw_sys::general::O_CLOEXEC != 0;
        let kept = flags & !(linux_raw_sys::general::O_CLOEXEC);
        self.install(Rc::new(OpenFile { object, flags: Cell::new(kept) }), closes_on_exec, 0)
    }

    /// Takes a descriptor away; the caller tells the object where it was the last one (see [`Kernel::close`]).
    fn remove(&mut self, descriptor: i32) -> Result<Descriptor, Errno> {
        let index = usize::try_from(descriptor).map_err(|_| errno::EBADF)?;
        self.descriptors.get_mut(index).and_then(Option::take).ok_or(errno::EBADF)
    }

    /// The size of Linux's table of descriptors, which grows with the highest one that there ever was: select looks no
    /// further (`fs/file.c`).
    pub fn table_size(&self) -> usize {
        const FIRST: usize = 64;
        const STEP: usize = 128;
        let count = self.descriptors.len();
        if count <= FIRST { FIRST } else { count.div_ceil(STEP).next_power_of_two() * STEP }
    }

    /// All descriptors that are open, in ascending order.
    pub fn open_descriptors(&self) -> impl Iterator<Item = i32> + '_ {
        self.descriptors.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(index, _)| index as i32)
    }
}

impl Kernel {
    /// Closes a descriptor, and the file with its last one.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&mut self, descriptor: i32) -> Result<(), Errno> {
        let removed = self.files.remove(descriptor)?;
        if let Some(opened) = removed.file.kind::<open_node::OpenNode>()
            && self.files.locks.release_process(opened.node)
        {
            self.change();
        }
        self.let_go(removed.file);
        Ok(())
    }

    /// Gives a hold on a file up, such as that of a message which was to hand it over: with the last one it is closed.
    pub fn let_go(&mut self, file: Rc<OpenFile>) {
        if Rc::strong_count(&file) == 1 {
            file.object.closed(self);
            self.change();
        }
    }

    /// Closes all descriptors, and brings all files to their devices: the guest ends with its program.
    pub fn close_all(&mut self) {
        let open: Vec<i32> = self.files.open_descriptors().collect();
        for descriptor in open {
            // It has just been listed as open.
            let _ = self.close(descriptor);
        }
        // Nobody is left who could be told of an error.
        let _ = self.files.tree.synchronise(None);
    }
}
