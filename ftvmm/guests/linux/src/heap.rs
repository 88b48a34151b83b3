//! What of the heap may be filled: with the content of files, and with what is on its way through sockets and pipes.
//!
//! A program, or who asks it for connections, can want more of those than there is memory, and is refused. What the
//! personality itself needs beside them is small and never refused: a part of the heap is kept back for it.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::hint::black_box;

#[cfg(feature = "image")]
use sdk::heap::size;
use sdk::reassembly;

/// One part of the heap in so many is kept back, half of it in one piece. The largest piece that is never refused is the
/// table of the network stack's sockets: a fortieth of the heap that the buffers of its connections fill.
const KEPT_PARTS: usize = 16;
/// So many bytes are kept back beside it, in the same piece: the buffers in which datagrams are put together that come in
/// several packets grow at a stranger's word and end the guest where they cannot. That is 1.1 MB, a seventh of the
/// heap where the image leaves 32 MiB.
const KEPT_BYTES: usize = reassembly::BUFFERS_BYTES_MAX;

/// There is no memory to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory is short")]
pub struct Short;

impl From<TryReserveError> for Short {
    fn from(_: TryReserveError) -> Short {
        Short
    }
}

/// Tests have the heap of the host.
#[cfg(not(feature = "image"))]
fn size() -> (usize, usize) {
    (0, usize::MAX)
}

/// Whether what is kept back is there: to be asked once something has been taken.
///
/// # Errors
/// Where it is not, and what was taken has to be given back.
pub fn check() -> Result<(), Short> {
    let (all, free) = size();
    let kept = all / KEPT_PARTS;
    if free < kept + KEPT_BYTES {
        return Err(Short);
    }
    let mut piece: Vec<u8> = Vec::new();
    piece.try_reserve_exact(kept / 2 + KEPT_BYTES)?;
    // A piece that nobody looks at would not be taken at all.
    black_box(&piece);
    Ok(())
}

/// Makes room for so many more bytes.
///
/// # Errors
/// Where memory is short; the vector is as it was then.
pub fn reserve(bytes: &mut Vec<u8>, more: usize) -> Result<(), Short> {
    let before = bytes.capacity();
    bytes.try_reserve_exact(more)?;
    if bytes.capacity() == before {
        return Ok(());
    }
    check().inspect_err(|_| bytes.shrink_to(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_heap_has_is_refused() {
        let mut bytes = Vec::new();
        assert_eq!(reserve(&mut bytes, 100), Ok(()));
        assert_eq!(bytes.capacity(), 100);
        assert_eq!(reserve(&mut bytes, isize::MAX as usize), Err(Short));
        assert_eq!(bytes.capacity(), 100);
    }
}
