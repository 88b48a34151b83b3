//! The bytes of a file in RAM: in chunks, so that a file grows without being copied and holes take no room. What was
//! packed stays where it lies until it is written.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::heap;
use crate::system_calls::{Errno, errno};

/// The size of a chunk in bytes.
const CHUNK_BYTES: u64 = 64 << 10;
/// A chunk gets at least so many bytes, and then twice as many as before.
const CHUNK_BYTES_MIN: usize = 256;

/// A file's bytes.
pub enum Contents {
    /// as they lie in the image
    Packed(&'static [u8]),
    /// changed since
    Chunks(Chunks),
}

/// Bytes by chunk; what no chunk has is zero.
#[derive(Default)]
pub struct Chunks {
    length: u64,
    chunks: BTreeMap<u64, Chunk>,
    room: Room,
}

/// Bytes that chunks take: in RAM, and in the image.
#[derive(Clone, Copy, Default)]
struct Room {
    own: u64,
    packed: u64,
}

enum Chunk {
    Packed(&'static [u8]),
    Own(Vec<u8>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Packed(bytes) => bytes,
            Chunk::Own(bytes) => bytes,
        }
    }

    fn room(&self) -> Room {
        match self {
            Chunk::Packed(bytes) => Room { own: 0, packed: bytes.len() as u64 },
            Chunk::Own(bytes) => Room { own: bytes.capacity() as u64, packed: 0 },
        }
    }
}

impl Default for Contents {
    fn default() -> Contents {
        Contents::Packed(&[])
    }
}

/// The chunks that a range touches: each one's number, and the range within it.
fn parts(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset.saturating_add(length);
    let mut at = offset;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (number, start) = (at / CHUNK_BYTES, at % CHUNK_BYTES);
        let stop = (start + (end - at)).min(CHUNK_BYTES);
        at += stop - start;
        Some((number, start as usize, stop as usize))
    })
}

impl Contents {
    /// The length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Contents::Packed(bytes) => bytes.len() as u64,
            Contents::Chunks(chunks) => chunks.length,
        }
    }

    /// The room that the bytes take, those in the image too.
    pub fn allocated(&self) -> u64 {
        match self {
            Contents::Packed(bytes) => bytes.len() as u64,
            Contents::Chunks(chunks) => chunks.room.own + chunks.room.packed,
        }
    }

    /// The room that they take in RAM beside the image.
    pub fn own_bytes(&self) -> u64 {
        match self {
            Contents::Packed(_) => 0,
            Contents::Chunks(chunks) => chunks.room.own,
        }
    }

    /// Reads; returns the number of bytes, less than asked for at the end only.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let count = self.length().saturating_sub(offset).min(buffer.len() as u64) as usize;
        match self {
            Contents::Packed(bytes) => {
                let start = offset.min(bytes.len() as u64) as usize;
                buffer[..count].copy_from_slice(&bytes[start..start + count]);
            }
            Contents::Chunks(chunks) => chunks.read_at(offset, &mut buffer[..count]),
        }
        count
    }

    /// Writes, and takes the room from what is `free`; returns the number of bytes, less than given where the room
    /// ends. The caller has made sure that the end can be counted.
    ///
    /// # Errors
    /// ENOSPC where there is no room for the first byte.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8], free: &mut u64) -> Result<usize, Errno> {
        if bytes.is_empty() {
            // Nothing makes a file no longer, wherever it is written.
            return Ok(0);
        }
        let chunks = self.chunks();
        let mut written = 0;
        for (number, start, stop) in parts(offset, bytes.len() as u64) {
            let part = &bytes[written..written + stop - start];
            match chunks.write(number, start, part, free) {
                Ok(()) => written += part.len(),
                Err(error) if written == 0 => return Err(error),
                Err(_) => break,
            }
        }
        chunks.length = chunks.length.max(offset + written as u64);
        Ok(written)
    }

    /// Sets the length, and gives the room of what goes to what is `free`.
    pub fn truncate(&mut self, length: u64, free: &mut u64) {
        match self {
            Contents::Packed(bytes) if length <= bytes.len() as u64 => *bytes = &bytes[..length as usize],
            _ if length == 0 => {
                *free += self.own_bytes();
                *self = Contents::default();
            }
            _ => self.chunks().truncate(length, free),
        }
    }

    /// Makes a part of the file zero; whole chunks of it take no room any more.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn clear(&mut self, offset: u64, length: u64, free: &mut u64) -> Result<(), Errno> {
        /// What is written in place of a part of a chunk.
        static ZEROS: [u8; CHUNK_BYTES as usize] = [0; CHUNK_BYTES as usize];
        let length = length.min(self.length().saturating_sub(offset));
        let chunks = self.chunks();
        let (first, last) = (offset / CHUNK_BYTES, offset.saturating_add(length) / CHUNK_BYTES);
        let present: Vec<u64> = chunks.chunks.range(first..=last).map(|(number, _)| *number).collect();
        for number in present {
            let start = offset.saturating_sub(number * CHUNK_BYTES) as usize;
            let stop = (offset + length - number * CHUNK_BYTES).min(CHUNK_BYTES) as usize;
            if start == 0 && stop as u64 == CHUNK_BYTES {
                chunks.forget(number, free);
            } else if start < stop {
                chunks.write(number, start, &ZEROS[start..stop], free)?;
            }
        }
        Ok(())
    }

    /// The bytes by chunk: those of the image are not copied.
    fn chunks(&mut self) -> &mut Chunks {
        if let Contents::Packed(bytes) = self {
            let chunks = bytes.chunks(CHUNK_BYTES as usize).enumerate();
            let chunks = chunks.map(|(number, bytes)| (number as u64, Chunk::Packed(bytes))).collect();
            let length = bytes.len() as u64;
            *self = Contents::Chunks(Chunks { length, chunks, room: Room { own: 0, packed: length } });
        }
        match self {
            Contents::Chunks(chunks) => chunks,
            Contents::Packed(_) => unreachable!("they have just been changed"),
        }
    }
}

impl Chunks {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) {
        let mut read = 0;
        for (number, start, stop) in parts(offset, buffer.len() as u64) {
            let into = &mut buffer[read..read + stop - start];
            read += into.len();
            let bytes = self.chunks.get(&number).map_or(&[][..], Chunk::bytes);
            let bytes = &bytes[start.min(bytes.len())..stop.min(bytes.len())];
            into[..bytes.len()].copy_from_slice(bytes);
            into[bytes.len()..].fill(0);
        }
    }

    /// Writes within a chunk.
    fn write(&mut self, number: u64, start: usize, bytes: &[u8], free: &mut u64) -> Result<(), Errno> {
        let stop = start + bytes.len();
        let chunk = self.chunks.entry(number).or_insert(Chunk::Own(Vec::new()));
        let before = chunk.room();
        let packed = if let Chunk::Packed(bytes) = chunk { Some(*bytes) } else { None };
        let mut fresh = Vec::new();
        let own = match chunk {
            Chunk::Packed(_) => &mut fresh,
            Chunk::Own(own) => own,
        };
        let needed = stop.max(packed.map_or(0, <[u8]>::len));
        if own.capacity() < needed {
            let wanted = needed.max(2 * own.capacity()).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES as usize);
            let is_affordable = (wanted - own.capacity()) as u64 <= *free;
            if !is_affordable || heap::reserve(own, wanted - own.len()).is_err() {
                return Err(errno::ENOSPC);
            }
        }
        own.extend_from_slice(packed.unwrap_or(&[]));
        if own.len() < start {
            own.resize(start, 0);
        }
        let overwritten = (own.len() - start).min(bytes.len());
        own[start..start + overwritten].copy_from_slice(&bytes[..overwritten]);
        own.extend_from_slice(&bytes[overwritten..]);
        if packed.is_some() {
            *chunk = Chunk::Own(fresh);
        }
        let after = chunk.room();
        self.account(before, after, free);
        Ok(())
    }

    /// A chunk took that room before, and takes this now.
    fn account(&mut self, before: Room, after: Room, free: &mut u64) {
        self.room.own = (self.room.own + after.own).saturating_sub(before.own);
        self.room.packed = (self.room.packed + after.packed).saturating_sub(before.packed);
        *free = (*free + before.own).saturating_sub(after.own);
    }

    fn forget(&mut self, number: u64, free: &mut u64) {
        if let Some(chunk) = self.chunks.remove(&number) {
            self.account(chunk.room(), Room::default(), free);
        }
    }

    fn truncate(&mut self, length: u64, free: &mut u64) {
        for chunk in self.chunks.split_off(&length.div_ceil(CHUNK_BYTES)).into_values() {
            self.account(chunk.room(), Room::default(), free);
        }
        let within = (length % CHUNK_BYTES) as usize;
        // What comes behind the end is zero when the file grows again.
        if within != 0
            && let Some(chunk) = self.chunks.get_mut(&(length / CHUNK_BYTES))
        {
            let before = chunk.room();
            match chunk {
                Chunk::Packed(bytes) => *bytes = &bytes[..within.min(bytes.len())],
                Chunk::Own(bytes) => {
                    bytes.truncate(within);
                    bytes.shrink_to_fit();
                }
            }
            let after = chunk.room();
            self.account(before, after, free);
        }
        self.length = length;
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const ROOM: u64 = 1 << 30;

    fn all(contents: &Contents) -> Vec<u8> {
        let mut bytes = vec![0xaa; contents.length() as usize];
        assert_eq!(contents.read_at(0, &mut bytes), bytes.len());
        bytes
    }

    #[test]
    fn what_is_written_is_read_across_chunks() {
        let (mut contents, mut free) = (Contents::default(), ROOM);
        let bytes: Vec<u8> = (0..200_000u32).map(|number| (number * 7 / 3) as u8).collect();
        assert_eq!(contents.write_at(60_000, &bytes, &mut free), Ok(bytes.len()));
        assert_eq!(contents.length(), 260_000);
        let read = all(&contents);
        assert!(read[..60_000].iter().all(|byte| *byte == 0));
        assert_eq!(&read[60_000..], &bytes[..]);
        let mut few = [0; 10];
        assert_eq!(contents.read_at(259_995, &mut few), 5);
        assert_eq!(contents.read_at(260_000, &mut few), 0);
        assert_eq!(contents.read_at(u64::MAX, &mut few), 0);
    }

    #[test]
    fn small_writes_one_behind_another_make_one_text() {
        let (mut contents, mut free) = (Contents::default(), ROOM);
        let mut expected = Vec::new();
        for number in 0..30_000u32 {
            let bytes = number.to_le_bytes();
            contents.write_at(expected.len() as u64, &bytes, &mut free).unwrap();
            expected.extend_from_slice(&bytes);
        }
        assert_eq!(all(&contents), expected);
        assert_eq!(contents.own_bytes(), ROOM - free);
        assert!(contents.own_bytes() <= 2 * CHUNK_BYTES);
    }

    #[test]
    fn a_packed_file_is_copied_chunk_by_chunk_when_written() {
        static PACKED: [u8; 150_000] = [7; 150_000];
        let (mut contents, mut free) = (Contents::Packed(&PACKED), ROOM);
        contents.write_at(70_000, b"new", &mut free).unwrap();
        assert_eq!(ROOM - free, CHUNK_BYTES);
        let mut expected = PACKED.to_vec();
        expected[70_000..70_003].copy_from_slice(b"new");
        assert_eq!(all(&contents), expected);
        contents.write_at(150_000, b"end", &mut free).unwrap();
        expected.extend_from_slice(b"end");
        assert_eq!(all(&contents), expected);
    }

    #[test]
    fn a_file_that_was_cut_is_zero_where_it_grows_again() {
        static PACKED: [u8; 100] = [9; 100];
        for mut contents in [Contents::Packed(&PACKED), Contents::default()] {
            let mut free = ROOM;
            contents.write_at(0, &[9; 100], &mut free).unwrap();
            contents.truncate(40, &mut free);
            contents.truncate(80, &mut free);
            let read = all(&contents);
            assert_eq!(read[..40], [9; 40]);
            assert_eq!(read[40..], [0; 40]);
            contents.truncate(0, &mut free);
            assert_eq!((contents.length(), free), (0, ROOM));
        }
    }

    #[test]
    fn a_packed_file_grows_without_being_written() {
        let (mut contents, mut free) = (Contents::Packed(b"abc"), ROOM);
        contents.truncate(5, &mut free);
        assert_eq!(all(&contents), b"abc\0\0");
        contents.truncate(2, &mut free);
        assert_eq!(all(&contents), b"ab");
        assert_eq!(free, ROOM);
    }

    #[test]
    fn a_hole_takes_no_room() {
        let (mut contents, mut free) = (Contents::default(), ROOM);
        contents.write_at(1 << 40, b"far", &mut free).unwrap();
        assert_eq!(contents.length(), (1 << 40) + 3);
        assert!(ROOM - free <= CHUNK_BYTES);
        let mut bytes = [1; 4];
        assert_eq!(contents.read_at((1 << 40) - 1, &mut bytes), 4);
        assert_eq!(&bytes, b"\0far");
        contents.truncate(1 << 50, &mut free);
        assert_eq!(contents.read_at(1 << 49, &mut bytes), 4);
        assert_eq!(bytes, [0; 4]);
    }

    #[test]
    fn where_the_room_ends_a_part_is_written() {
        let (mut contents, mut free) = (Contents::default(), CHUNK_BYTES + 100);
        assert_eq!(contents.write_at(0, &[1; 100_000], &mut free), Ok(CHUNK_BYTES as usize));
        assert_eq!(contents.length(), CHUNK_BYTES);
        assert_eq!(contents.write_at(CHUNK_BYTES, &[1; 1000], &mut free), Err(errno::ENOSPC));
        assert_eq!(contents.length(), CHUNK_BYTES);
        contents.truncate(0, &mut free);
        assert_eq!(free, CHUNK_BYTES + 100);
    }

    #[test]
    fn a_cleared_part_is_zero_and_gives_room_back() {
        let (mut contents, mut free) = (Contents::default(), ROOM);
        let length = 4 * CHUNK_BYTES;
        contents.write_at(0, &vec![5; length as usize], &mut free).unwrap();
        let before = free;
        contents.clear(CHUNK_BYTES - 10, CHUNK_BYTES + 20, &mut free).unwrap();
        assert_eq!(free - before, CHUNK_BYTES);
        let read = all(&contents);
        let cleared = (CHUNK_BYTES - 10) as usize..(2 * CHUNK_BYTES + 10) as usize;
        for (at, byte) in read.iter().enumerate() {
            assert_eq!(*byte == 0, cleared.contains(&at), "{at}");
        }
        contents.clear(length - 5, 1 << 40, &mut free).unwrap();
        assert_eq!(contents.length(), length);
        assert_eq!(all(&contents)[length as usize - 6..], [5, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn any_changes_leave_what_a_plain_vector_would_hold() {
        static PACKED: [u8; 150_000] = [3; 150_000];
        const LENGTH_MAX: u64 = 300_000;
        // Numbers without a pattern: a linear congruential generator (Knuth).
        let mut state = 1u64;
        let mut next = move |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        let (mut contents, mut model, mut free) = (Contents::Packed(&PACKED), PACKED.to_vec(), ROOM);
        for round in 0..2000u32 {
            let (offset, length) = (next(LENGTH_MAX), 1 + next(if round % 3 == 0 { 90_000 } else { 300 }));
            match next(4) {
                0 => {
                    contents.truncate(offset, &mut free);
                    model.resize(offset as usize, 0);
                }
                1 => {
                    contents.clear(offset, length, &mut free).unwrap();
                    let end = model.len().min((offset + length) as usize);
                    model[end.min(offset as usize)..end].fill(0);
                }
                _ => {
                    let bytes = vec![round as u8; length as usize];
                    assert_eq!(contents.write_at(offset, &bytes, &mut free), Ok(bytes.len()));
                    let end = offset as usize + bytes.len();
                    model.resize(model.len().max(end), 0);
                    model[offset as usize..end].copy_from_slice(&bytes);
                }
            }
            assert_eq!(contents.length(), model.len() as u64);
            assert_eq!(contents.own_bytes(), ROOM - free);
            let mut read = vec![0; next(70_000) as usize];
            let count = contents.read_at(offset, &mut read);
            let start = model.len().min(offset as usize);
            assert_eq!(read[..count], model[start..model.len().min(start + read.len())]);
        }
        assert_eq!(all(&contents), model);
    }
}
