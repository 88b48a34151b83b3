//! Hypercalls: `outl` of the address of a structure to port 0x500 + n (Solo5, `include/hvt_abi.h`).

use core::arch::asm;

/// Result code of an I/O hypercall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HypercallError {
    /// nothing is ready now
    #[error("nothing is ready now")]
    Again,
    /// the host refused the arguments as invalid
    #[error("the host refused the arguments as invalid")]
    Invalid,
    /// the host could not carry it out
    #[error("the host could not carry it out")]
    Unspecified,
}

fn result_of(code: i32) -> Result<(), HypercallError> {
    match code {
        0 => Ok(()),
        1 => Err(HypercallError::Again),
        2 => Err(HypercallError::Invalid),
        _ => Err(HypercallError::Unspecified),
    }
}

const PORT_BASE: u16 = 0x500;

#[repr(C)]
struct Walltime {
    nanoseconds: u64,
}

#[repr(C)]
struct Puts {
    data: *const u8,
    length: u64,
}

#[repr(C)]
struct Poll {
    timeout_nanoseconds: u64,
    ready_set: u64,
    result: i32,
}

#[repr(C)]
struct BlockTransfer {
    handle: u64,
    offset: u64,
    data: *mut u8,
    length: u64,
    result: i32,
}

#[repr(C)]
struct NetworkTransfer {
    handle: u64,
    data: *mut u8,
    length: u64,
    result: i32,
}

#[repr(C)]
struct Halt {
    cookie: u64,
    exit_status: i32,
}

/// Enters the host. The structure is read and its OUT fields written in place.
fn call<T>(number: u16, argument: &mut T) {
    let address = core::ptr::from_mut(argument).addr() as u32; // guest memory ends at 4 GiB
    // SAFETY: the host accesses the structure at `address`, which is exclusively borrowed for the duration of the
    // instruction, and the buffers that the wrappers below hand over; neither `nomem` nor `readonly` is claimed.
    unsafe {
        asm!("out dx, eax", in("dx") PORT_BASE + number, in("eax") address, options(nostack, preserves_flags));
    }
}

/// Wall-clock time in nanoseconds since 1970 (UTC).
pub fn walltime() -> u64 {
    let mut walltime = Walltime { nanoseconds: 0 };
    call(1, &mut walltime);
    walltime.nanoseconds
}

/// Writes bytes to the console.
pub fn puts(bytes: &[u8]) {
    call(2, &mut Puts { data: bytes.as_ptr(), length: bytes.len() as u64 });
}

/// Waits until a network device is readable or the timeout is over; returns the set of readable handles, bit by bit.
pub fn poll(timeout_nanoseconds: u64) -> u64 {
    let mut poll = Poll { timeout_nanoseconds, ready_set: 0, result: 0 };
    call(3, &mut poll);
    if poll.result > 0 { poll.ready_set } else { 0 }
}

/// Writes whole blocks at an offset in bytes.
///
/// # Errors
/// What the host answered.
pub fn block_write(handle: u64, offset: u64, data: &[u8]) -> Result<(), HypercallError> {
    let mut transfer =
        BlockTransfer { handle, offset, data: data.as_ptr().cast_mut(), length: data.len() as u64, result: 0 };
    call(4, &mut transfer);
    result_of(transfer.result)
}

/// Reads whole blocks from an offset in bytes and fills `data`.
///
/// # Errors
/// What the host answered; a short read is [`HypercallError::Unspecified`].
pub fn block_read(handle: u64, offset: u64, data: &mut [u8]) -> Result<(), HypercallError> {
    let length = data.len() as u64;
    let mut transfer = BlockTransfer { handle, offset, data: data.as_mut_ptr(), length, result: 0 };
    call(5, &mut transfer);
    result_of(transfer.result)?;
    if transfer.length == length { Ok(()) } else { Err(HypercallError::Unspecified) }
}

/// Sends one Ethernet frame.
///
/// # Errors
/// What the host answered.
pub fn network_write(handle: u64, frame: &[u8]) -> Result<(), HypercallError> {
    let mut transfer =
        NetworkTransfer { handle, data: frame.as_ptr().cast_mut(), length: frame.len() as u64, result: 0 };
    call(6, &mut transfer);
    result_of(transfer.result)
}

/// Receives one Ethernet frame into `buffer`; returns its length in bytes.
///
/// # Errors
/// [`HypercallError::Again`] where no frame is waiting, else what the host answered.
pub fn network_read(handle: u64, buffer: &mut [u8]) -> Result<usize, HypercallError> {
    let mut transfer = NetworkTransfer { handle, data: buffer.as_mut_ptr(), length: buffer.len() as u64, result: 0 };
    call(7, &mut transfer);
    result_of(transfer.result)?;
    Ok((transfer.length as usize).min(buffer.len()))
}

/// Ends the guest.
pub fn halt(exit_status: i32) -> ! {
    let mut halt = Halt { cookie: 0, exit_status };
    loop {
        call(8, &mut halt);
    }
}
