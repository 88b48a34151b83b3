//! Hypercalls: structures in guest memory on one side, requests and answers on the other. See `hvt_abi.h` of Solo5.

use serde::{Deserialize, Serialize};

use super::memory::GuestMemory;
use super::monitor::HYPERCALL_PORT;
use super::request::{
    Answer, BLOCK_TRANSFER_BYTES_MAX, CONSOLE_BYTES_MAX, ETHERNET_HEADER_BYTES, HypercallResult, Request,
};
use crate::image::Properties;

/// A frame cannot be longer, whatever the MTU.
const FRAME_BYTES_MAX: u64 = u16::MAX as u64 + ETHERNET_HEADER_BYTES as u64;

/// What became of a hypercall.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// The driver has to answer; `place` says where the answer goes.
    Request(Request, Place),
    /// Answered: EINVAL is written, the guest goes on.
    Refused,
    /// The guest cannot even be told what is wrong.
    Fatal(String),
}

/// Where an answer goes: the hypercall's own structure, and the buffer that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Place {
    pub structure: u64,
    pub data: u64,
}

/// The devices by handle.
pub(super) type Devices = [Option<Properties>];

/// Decodes hypercall `number` with its structure at `structure`.
pub(super) fn decode(memory: &mut GuestMemory, devices: &Devices, port: u16, structure: u64) -> Decoded {
    let layout = match port.wrapping_sub(HYPERCALL_PORT) {
        1 => Layout { bytes: 8, result: None, writable: true },
        2 => Layout { bytes: 16, result: None, writable: false },
        3 => Layout { bytes: 20, result: Some(16), writable: true },
        4 | 5 => Layout { bytes: 36, result: Some(32), writable: true },
        6 | 7 => Layout { bytes: 28, result: Some(24), writable: true },
        8 => Layout { bytes: 12, result: None, writable: false },
        _ => return Decoded::Fatal(format!("it wrote to port {port:#x}, which is no hypercall's")),
    };
    if layout.writable && !memory.is_writable(structure, layout.bytes) {
        return Decoded::Fatal(format!("the structure of a hypercall, at {structure:#x}, is not in writable memory"));
    }
    let Some(bytes) = memory.read(structure, layout.bytes) else {
        return Decoded::Fatal(format!("the structure of a hypercall, at {structure:#x}, is not in its memory"));
    };
    let mut fields = [0; 4];
    for (field, bytes) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
        *field = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    let call = Call { memory, devices, fields, structure };
    let request = match port - HYPERCALL_PORT {
        1 => Ok(call.at(Request::Walltime, 0)),
        2 => return call.console(),
        3 => Ok(call.at(Request::Poll { timeout_nanoseconds: fields[0] }, 0)),
        4 => call.block_write(),
        5 => call.block_read(),
        6 => call.network_write(),
        7 => call.network_read(),
        _ => {
            let status = memory.read(structure + 8, 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
            let request = Request::Halt { exit_status: i32::from_le_bytes(status) };
            return Decoded::Request(request, Place::default());
        }
    };
    match (request, layout.result) {
        (Ok(decoded), _) => decoded,
        (Err(result), Some(offset)) => {
            write_result(memory, structure + offset, result);
            Decoded::Refused
        }
        (Err(_), None) => Decoded::Fatal("a hypercall without a result was refused".into()),
    }
}

/// Whether a guest with this memory and these devices can have asked for this input.
pub(super) fn could_be_asked(memory: &GuestMemory, devices: &Devices, request: &Request, place: Place) -> bool {
    let device = |device: u8| devices.get(usize::from(device)).copied().flatten();
    let structure = |bytes| memory.is_writable(place.structure, bytes);
    match request {
        Request::Walltime => structure(8),
        Request::Poll { .. } => structure(20),
        Request::BlockRead { device: handle, offset, length } => {
            let capacity_bytes = match device(*handle) {
                Some(Properties::Block { capacity_bytes, .. }) => capacity_bytes,
                _ => 0,
            };
            let end = offset.checked_add(u64::from(*length));
            let inside = end.is_some_and(|end| end <= capacity_bytes) && *length <= BLOCK_TRANSFER_BYTES_MAX;
            inside && structure(36) && memory.is_writable(place.data, u64::from(*length))
        }
        Request::NetworkRead { device: handle, capacity } => {
            let is_network = matches!(device(*handle), Some(Properties::Network { .. }));
            is_network && structure(28) && memory.is_writable(place.data, u64::from(*capacity))
        }
        Request::Instruction(_) => true,
        _ => false,
    }
}

struct Layout {
    bytes: u64,
    /// Where the result stands, in calls that have one.
    result: Option<u64>,
    writable: bool,
}

struct Call<'a> {
    memory: &'a GuestMemory,
    devices: &'a Devices,
    fields: [u64; 4],
    structure: u64,
}

const REFUSED: HypercallResult = HypercallResult::InvalidArgument;

impl Call<'_> {
    fn at(&self, request: Request, data: u64) -> Decoded {
        Decoded::Request(request, Place { structure: self.structure, data })
    }

    fn console(&self) -> Decoded {
        let [address, length, ..] = self.fields;
        if length > CONSOLE_BYTES_MAX {
            return Decoded::Fatal(format!("a console output of {length} bytes is longer than {CONSOLE_BYTES_MAX}"));
        }
        match self.memory.read(address, length) {
            Some(data) => self.at(Request::Console { data: data.to_vec() }, 0),
            None => Decoded::Fatal(format!("a console output's {length} bytes at {address:#x} are not in its memory")),
        }
    }

    fn device(&self) -> Option<(u8, Properties)> {
        let handle = self.fields[0];
        let properties = self.devices.get(usize::try_from(handle).ok()?)?.as_ref()?;
        Some((handle as u8, *properties))
    }

    /// Handle and length of a block transfer that lies within its device, in whole sectors.
    fn block(&self) -> Result<(u8, u32), HypercallResult> {
        let [_, offset, _, length] = self.fields;
        let Some((device, Properties::Block { capacity_bytes, sector_bytes })) = self.device() else {
            return Err(REFUSED);
        };
        let sector_bytes = u64::from(sector_bytes);
        let inside = offset.checked_add(length).is_some_and(|end| end <= capacity_bytes);
        let whole = offset % sector_bytes == 0 && length % sector_bytes == 0;
        let bounded = length > 0 && length <= u64::from(BLOCK_TRANSFER_BYTES_MAX);
        if inside && whole && bounded { Ok((device, length as u32)) } else { Err(REFUSED) }
    }

    fn block_write(&self) -> Result<Decoded, HypercallResult> {
        let [_, offset, address, _] = self.fields;
        let (device, length) = self.block()?;
        let data = self.memory.read(address, length.into()).ok_or(REFUSED)?.to_vec();
        Ok(self.at(Request::BlockWrite { device, offset, data }, 0))
    }

    fn block_read(&self) -> Result<Decoded, HypercallResult> {
        let [_, offset, address, _] = self.fields;
        let (device, length) = self.block()?;
        if !self.memory.is_writable(address, length.into()) {
            return Err(REFUSED);
        }
        Ok(self.at(Request::BlockRead { device, offset, length }, address))
    }

    fn network_write(&self) -> Result<Decoded, HypercallResult> {
        let [_, address, length, _] = self.fields;
        let Some((device, Properties::Network { mtu_bytes, .. })) = self.device() else {
            return Err(REFUSED);
        };
        if length < u64::from(ETHERNET_HEADER_BYTES) || length > u64::from(ETHERNET_HEADER_BYTES + u32::from(mtu_bytes))
        {
            return Err(REFUSED);
        }
        let frame = self.memory.read(address, length).ok_or(REFUSED)?.to_vec();
        Ok(self.at(Request::NetworkWrite { device, frame }, 0))
    }

    fn network_read(&self) -> Result<Decoded, HypercallResult> {
        let [_, address, length, _] = self.fields;
        let Some((device, Properties::Network { .. })) = self.device() else {
            return Err(REFUSED);
        };
        let capacity = length.min(FRAME_BYTES_MAX);
        if capacity < u64::from(ETHERNET_HEADER_BYTES) || !self.memory.is_writable(address, capacity) {
            return Err(REFUSED);
        }
        Ok(self.at(Request::NetworkRead { device, capacity: capacity as u32 }, address))
    }
}

/// Writes an answer where its request said; `false` where the request does not take it.
///
/// A request's place was checked when it was decoded, and permissions never change: so every write here succeeds.
pub(super) fn write_answer(memory: &mut GuestMemory, request: &Request, place: Place, answer: &Answer) -> bool {
    let Place { structure, data: buffer } = place;
    match (request, answer) {
        (_, Answer::Walltime { nanoseconds }) => write_word(memory, structure, *nanoseconds),
        (_, Answer::Poll { ready_set }) => {
            write_word(memory, structure + 8, *ready_set)
                && write(memory, structure + 16, &ready_set.count_ones().to_le_bytes())
        }
        (Request::BlockRead { length, .. }, Answer::BlockRead { result, data }) => {
            write(memory, buffer, data)
                && (*result != HypercallResult::Ok || write_word(memory, structure + 24, u64::from(*length)))
                && write_result(memory, structure + 32, *result)
        }
        (_, Answer::NetworkRead { frame: None }) => write_result(memory, structure + 24, HypercallResult::Again),
        (_, Answer::NetworkRead { frame: Some(frame) }) => {
            write(memory, buffer, frame)
                && write_word(memory, structure + 16, frame.len() as u64)
                && write_result(memory, structure + 24, HypercallResult::Ok)
        }
        (Request::BlockWrite { .. }, Answer::Done) => write_result(memory, structure + 32, HypercallResult::Ok),
        (Request::NetworkWrite { .. }, Answer::Done) => write_result(memory, structure + 24, HypercallResult::Ok),
        (Request::Console { .. }, Answer::Done) => true,
        _ => false,
    }
}

fn write(memory: &mut GuestMemory, address: u64, bytes: &[u8]) -> bool {
    memory.write(address, bytes.len() as u64).map(|place| place.copy_from_slice(bytes)).is_some()
}

fn write_word(memory: &mut GuestMemory, address: u64, word: u64) -> bool {
    write(memory, address, &word.to_le_bytes())
}

fn write_result(memory: &mut GuestMemory, address: u64, result: HypercallResult) -> bool {
    write(memory, address, &i32::from(result.code()).to_le_bytes())
}
