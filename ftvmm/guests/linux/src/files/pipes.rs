//! Pipes. Their room is counted as Linux counts it, in pages, so that a writer finds a pipe full after as many bytes.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::RefCell;

use linux_raw_sys::general::{
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, O_CLOEXEC, O_DIRECT, O_NONBLOCK, O_RDONLY, O_WRONLY, PIPE_BUF, S_IFIFO,
    SIGPIPE, stat,
};
use linux_raw_sys::ioctl::FIONREAD;

use super::Object;
use super::file_system::empty_status;
use crate::heap;
use crate::kernel::Kernel;
use crate::readiness::{Activity, Arrivals};
use crate::system_calls::{Call, Errno, Outcome, Stop, errno};

/// What one slot holds, in bytes: a page.
const SLOT_BYTES: usize = PIPE_BUF as usize;
/// The slots of a new pipe: 64 KiB.
const SLOTS: usize = 16;
/// The most slots that a pipe can be given (/proc/sys/fs/pipe-max-size).
const SLOTS_MAX: usize = 256;

/// Bytes that were written, at most a page of them.
struct Slot {
    bytes: Vec<u8>,
    /// so many have been read
    read: usize,
    /// it is read as a whole or lost (O_DIRECT)
    is_packet: bool,
}

/// Why nothing went into a pipe or came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// not now
    Now,
    /// never: nobody reads
    Broken,
    /// there is no memory
    Memory,
}

/// What is between two ends.
struct Pipe {
    slots: VecDeque<Slot>,
    slots_max: usize,
    readers: usize,
    writers: usize,
    /// something came, or the last writer went
    arrivals: Arrivals,
    /// a full pipe got room, or the last reader went
    rooms: Arrivals,
}

impl Default for Pipe {
    fn default() -> Pipe {
        Pipe {
            slots: VecDeque::new(),
            slots_max: SLOTS,
            readers: 0,
            writers: 0,
            arrivals: Arrivals::default(),
            rooms: Arrivals::default(),
        }
    }
}

impl Pipe {
    fn length(&self) -> usize {
        self.slots.iter().map(|slot| slot.bytes.len() - slot.read).sum()
    }

    fn is_full(&self) -> bool {
        self.slots.len() >= self.slots_max
    }

    /// Puts in what there is room for. As in Linux (`fs/pipe.c`), what is no whole page joins the last slot where all
    /// of it fits, and everything else gets slots of its own: a text of a page or less is never torn.
    fn write(&mut self, bytes: &[u8], is_packet: bool) -> Result<usize, Refused> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.readers == 0 {
            return Err(Refused::Broken);
        }
        let was_filled = !self.slots.is_empty();
        let mut written = 0;
        let odd = bytes.len() % SLOT_BYTES;
        if let Some(last) = self.slots.back_mut()
            && odd != 0
            && !last.is_packet
            && last.bytes.len() + odd <= SLOT_BYTES
        {
            if last.bytes.capacity() - last.bytes.len() < odd {
                // A page at once: one who writes byte by byte would move the slot each time.
                let rest = SLOT_BYTES - last.bytes.len();
                heap::reserve(&mut last.bytes, rest).map_err(|_| Refused::Memory)?;
            }
            last.bytes.extend_from_slice(&bytes[..odd]);
            written = odd;
        }
        while written < bytes.len() && !self.is_full() {
            let part = &bytes[written..bytes.len().min(written + SLOT_BYTES)];
            let mut own = Vec::new();
            if heap::reserve(&mut own, part.len()).is_err() {
                break;
            }
            own.extend_from_slice(part);
            self.slots.push_back(Slot { bytes: own, read: 0, is_packet });
            written += part.len();
        }
        match written {
            0 if self.is_full() => Err(Refused::Now),
            0 => Err(Refused::Memory),
            _ => {
                self.arrivals.note(was_filled);
                Ok(written)
            }
        }
    }

    /// Takes out what there is, a packet at most.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Refused> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let was_full = self.is_full();
        let mut count = 0;
        while count < buffer.len()
            && let Some(slot) = self.slots.front_mut()
        {
            let rest = &slot.bytes[slot.read..];
            let part = rest.len().min(buffer.len() - count);
            buffer[count..count + part].copy_from_slice(&rest[..part]);
            slot.read += part;
            count += part;
            let is_packet = slot.is_packet;
            if is_packet || slot.read == slot.bytes.len() {
                self.slots.pop_front();
            }
            if is_packet {
                break;
            }
        }
        if was_full && !self.is_full() {
            self.rooms.note(false);
        }
        match count {
            0 if self.writers > 0 => Err(Refused::Now),
            count => Ok(count),
        }
    }

    /// Gives it so many slots.
    fn resize(&mut self, slots: usize) -> Result<(), Errno> {
        match slots {
            slots if slots > SLOTS_MAX => Err(errno::EPERM),
            slots if slots < self.slots.len() => Err(errno::EBUSY),
            slots => {
                self.slots_max = slots;
                Ok(())
            }
        }
    }
}

/// One end of a pipe.
pub struct PipeEnd {
    pipe: Rc<RefCell<Pipe>>,
    is_writer: bool,
    is_packet: bool,
    /// the inode number, which both ends have
    number: u64,
}

impl PipeEnd {
    fn new(pipe: &Rc<RefCell<Pipe>>, is_writer: bool, is_packet: bool, number: u64) -> PipeEnd {
        let mut inner = pipe.borrow_mut();
        if is_writer {
            inner.writers += 1;
        } else {
            inner.readers += 1;
        }
        drop(inner);
        PipeEnd { pipe: pipe.clone(), is_writer, is_packet, number }
    }

    /// Another end of the same pipe, for what opens it by /proc/self/fd.
    pub fn reopen(&self, is_writer: bool) -> PipeEnd {
        PipeEnd::new(&self.pipe, is_writer, false, self.number)
    }

    /// The bytes that the pipe has room for.
    pub fn capacity(&self) -> usize {
        self.pipe.borrow().slots_max * SLOT_BYTES
    }

    /// Gives the pipe room for at least so many bytes; returns for how many.
    ///
    /// # Errors
    /// EINVAL, EPERM for more than anybody gets, EBUSY where more is in it.
    pub fn set_capacity(&self, bytes: u32) -> Result<usize, Errno> {
        const BYTES_MAX: u32 = 1 << 31;
        if bytes > BYTES_MAX {
            return Err(errno::EINVAL);
        }
        let slots = (bytes as usize).div_ceil(SLOT_BYTES).max(1).next_power_of_two();
        self.pipe.borrow_mut().resize(slots)?;
        Ok(slots * SLOT_BYTES)
    }

    fn refuse(&self, kernel: &mut Kernel, refused: Refused) -> Stop {
        match refused {
            Refused::Now => Stop::wait(None),
            Refused::Memory => errno::ENOMEM.into(),
            Refused::Broken => {
                kernel.signal_current(SIGPIPE);
                errno::EPIPE.into()
            }
        }
    }
}

impl Object for PipeEnd {
    fn read(&self, kernel: &mut Kernel, buffer: &mut [u8]) -> Result<usize, Stop> {
        let mut pipe = self.pipe.borrow_mut();
        let rooms = pipe.rooms.activity();
        let outcome = pipe.read(buffer);
        if pipe.rooms.activity() != rooms {
            kernel.change();
        }
        outcome.map_err(|refused| self.refuse(kernel, refused))
    }

    fn write(&self, kernel: &mut Kernel, bytes: &[u8]) -> Result<usize, Stop> {
        let outcome = self.pipe.borrow_mut().write(bytes, self.is_packet);
        if outcome.is_ok_and(|count| count > 0) {
            kernel.change();
        }
        outcome.map_err(|refused| self.refuse(kernel, refused))
    }

    fn ready(&self, _: &Kernel) -> u32 {
        let pipe = self.pipe.borrow();
        let flag = |condition: bool, event: u32| if condition { event } else { 0 };
        if self.is_writer {
            flag(!pipe.is_full(), EPOLLOUT) | flag(pipe.readers == 0, EPOLLERR)
        } else {
            flag(!pipe.slots.is_empty(), EPOLLIN) | flag(pipe.writers == 0, EPOLLHUP)
        }
    }

    fn activity(&self, _: &Kernel) -> Activity {
        let pipe = self.pipe.borrow();
        if self.is_writer { pipe.rooms.activity() } else { pipe.arrivals.activity() }
    }

    fn metadata(&self, _: &Kernel) -> stat {
        empty_status(S_IFIFO | 0o600, self.number)
    }

    fn control(&self, kernel: &mut Kernel, request: u32, argument: u64) -> Outcome {
        match request {
            FIONREAD => {
                kernel.memory.put(argument, self.pipe.borrow().length() as i32)?;
                Ok(0)
            }
            _ => Err(errno::ENOTTY.into()),
        }
    }

    fn closed(&self, kernel: &mut Kernel) {
        let mut pipe = self.pipe.borrow_mut();
        if self.is_writer {
            pipe.writers -= 1;
            if pipe.writers == 0 {
                pipe.arrivals.note(!pipe.slots.is_empty());
            }
        } else {
            pipe.readers -= 1;
            if pipe.readers == 0 {
                pipe.rooms.note(!pipe.is_full());
            }
        }
        kernel.change();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn open_pipe(kernel: &mut Kernel, address: u64, flags: u32) -> Outcome {
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
        return Err(errno::EINVAL.into());
    }
    let pipe = Rc::default();
    let number = kernel.files.tree.unique_number();
    let reader = Rc::new(PipeEnd::new(&pipe, false, false, number));
    let writer = Rc::new(PipeEnd::new(&pipe, true, flags & O_DIRECT != 0, number));
    let reader = kernel.files.open(reader, O_RDONLY | (flags & (O_NONBLOCK | O_CLOEXEC)))?;
    let writer = match kernel.files.open(writer, O_WRONLY | flags) {
        Ok(writer) => writer,
        Err(error) => {
            kernel.close(reader)?;
            return Err(error.into());
        }
    };
    if let Err(error) = kernel.memory.put(address, [reader, writer]) {
        kernel.close(reader)?;
        kernel.close(writer)?;
        return Err(error.into());
    }
    Ok(0)
}

/// pipe(ends)
///
/// # Errors
/// EMFILE, EFAULT.
pub fn pipe(kernel: &mut Kernel, call: Call) -> Outcome {
    open_pipe(kernel, call.word(0), 0)
}

/// pipe2(ends, flags)
///
/// # Errors
/// As pipe, and EINVAL for other flags than O_CLOEXEC, O_NONBLOCK and O_DIRECT.
pub fn pipe2(kernel: &mut Kernel, call: Call) -> Outcome {
    open_pipe(kernel, call.word(0), call.unsigned(1))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn pipe_with_ends() -> Pipe {
        Pipe { readers: 1, writers: 1, ..Pipe::default() }
    }

    /// Writes until nothing goes in; returns how much did.
    fn fill(pipe: &mut Pipe, length: usize) -> usize {
        let bytes = vec![1; length];
        core::iter::from_fn(|| pipe.write(&bytes, false).ok()).sum()
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut pipe = pipe_with_ends();
        let mut buffer = [0; 100];
        assert_eq!(pipe.read(&mut buffer), Err(Refused::Now));
        assert_eq!(pipe.write(b"hello", false), Ok(5));
        assert_eq!(pipe.write(b"world", false), Ok(5));
        assert_eq!(pipe.length(), 10);
        assert_eq!(pipe.read(&mut buffer[..7]), Ok(7));
        assert_eq!(&buffer[..7], b"hellowo");
        assert_eq!(pipe.read(&mut buffer), Ok(3));
        assert_eq!(&buffer[..3], b"rld");
    }

    #[test]
    fn a_pipe_is_full_after_as_many_bytes_as_in_linux() {
        // Measured on Linux 6.18 by writes of these lengths that do not wait.
        let measured = [
            (1, 65_536),
            (1000, 64_000),
            (3000, 48_000),
            (4095, 65_520),
            (4096, 65_536),
            (5000, 54_096),
            (6000, 64_096),
            (100_000, 65_536),
        ];
        for (length, total) in measured {
            let mut pipe = pipe_with_ends();
            assert_eq!(fill(&mut pipe, length), total, "{length}");
        }
    }

    #[test]
    fn a_slot_that_is_filled_byte_by_byte_grows_once() {
        let mut pipe = pipe_with_ends();
        let mut capacities = Vec::new();
        for _ in 0..SLOT_BYTES {
            pipe.write(b"x", false).unwrap();
            capacities.push(pipe.slots[0].bytes.capacity());
        }
        capacities.dedup();
        assert_eq!(capacities, [1, SLOT_BYTES]);
    }

    #[test]
    fn a_text_of_a_page_or_less_is_never_torn() {
        let mut pipe = pipe_with_ends();
        fill(&mut pipe, SLOT_BYTES);
        let mut buffer = [0; 100];
        pipe.read(&mut buffer).unwrap();
        assert_eq!(pipe.write(&[2; 100], false), Err(Refused::Now));
        let mut rest = [0; SLOT_BYTES - 100];
        pipe.read(&mut rest).unwrap();
        assert_eq!(pipe.write(&[2; SLOT_BYTES], false), Ok(SLOT_BYTES));
    }

    #[test]
    fn an_end_that_goes_is_noticed_at_the_other_one() {
        let mut pipe = pipe_with_ends();
        let mut buffer = [0; 10];
        pipe.write(b"last", false).unwrap();
        pipe.writers = 0;
        assert_eq!(pipe.read(&mut buffer), Ok(4));
        assert_eq!(pipe.read(&mut buffer), Ok(0));
        pipe.readers = 0;
        assert_eq!(pipe.write(b"x", false), Err(Refused::Broken));
        assert_eq!(pipe.write(b"", false), Ok(0));
    }

    #[test]
    fn packets_stay_apart_and_lose_what_is_not_read() {
        let mut pipe = pipe_with_ends();
        let mut buffer = [0; 10];
        pipe.write(b"first", true).unwrap();
        pipe.write(b"second", true).unwrap();
        assert_eq!(pipe.read(&mut buffer[..3]), Ok(3));
        assert_eq!(pipe.read(&mut buffer), Ok(6));
        assert_eq!(&buffer[..6], b"second");
    }

    #[test]
    fn arrivals_and_rooms_are_noted() {
        let mut pipe = pipe_with_ends();
        pipe.write(b"a", false).unwrap();
        pipe.write(b"b", false).unwrap();
        let (arrivals, rooms) = (pipe.arrivals.activity(), pipe.rooms.activity());
        assert!(arrivals.last > arrivals.since && rooms == Activity::default());
        let mut buffer = [0; SLOT_BYTES];
        pipe.read(&mut buffer).unwrap();
        assert_eq!(pipe.rooms.activity(), rooms);
        fill(&mut pipe, SLOT_BYTES);
        pipe.read(&mut buffer[..10]).unwrap();
        assert_eq!(pipe.rooms.activity(), rooms);
        pipe.read(&mut buffer).unwrap();
        assert!(pipe.rooms.activity() > rooms);
    }

    #[test]
    fn the_room_is_set_in_powers_of_two_and_never_below_what_is_in_it() {
        let pipe = Rc::default();
        let end = PipeEnd::new(&pipe, true, false, 1);
        let _reader = PipeEnd::new(&pipe, false, false, 1);
        assert_eq!(end.set_capacity(5000), Ok(8192));
        assert_eq!(end.capacity(), 8192);
        assert_eq!(fill(&mut pipe.borrow_mut(), SLOT_BYTES), 8192);
        assert_eq!(end.set_capacity(1), Err(errno::EBUSY));
        assert_eq!(end.set_capacity(1 << 21), Err(errno::EPERM));
        assert_eq!(end.set_capacity(u32::MAX), Err(errno::EINVAL));
    }
}
