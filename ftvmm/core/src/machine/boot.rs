//! Guest memory as the guest finds it: segments, boot information, command line, manifest.

use super::memory::{Access, GUEST_ADDRESS_MIN, GuestMemory, PAGE_BYTES};
use super::{COUNTER_FREQUENCY_HERTZ, DeviceConfig, MachineConfig, MachineError, SECTOR_BYTES, check_sectors};
use crate::determinism::Rewritten;
use crate::image::{DeviceKind, IMAGE_ADDRESS_END, IMAGE_ADDRESS_MIN, Image, MANIFEST_ENTRIES_MAX, Properties};

pub(super) const BOOT_INFO_ADDRESS: u64 = GUEST_ADDRESS_MIN;
const BOOT_INFO_BYTES: u64 = 56;
const COMMAND_LINE_BYTES_MAX: usize = 8192;
/// Below, not even a stack fits behind the smallest image.
const STACK_BYTES_MIN: u64 = 64 << 10;

fn wrong(reason: String) -> MachineError {
    MachineError::Config { reason }
}

/// Checks the devices of `config` against what the image declares: all of it, and nothing else.
pub(super) fn attach(image: &Image, config: &MachineConfig) -> Result<Vec<Option<Properties>>, MachineError> {
    let mut devices = vec![None; MANIFEST_ENTRIES_MAX as usize];
    for entry in &image.manifest.entries {
        let device = config.devices.get(&entry.name);
        devices[usize::from(entry.index)] = Some(match (entry.kind, device) {
            (DeviceKind::Block, Some(DeviceConfig::Block { capacity_bytes, sector_bytes })) => {
                check_sectors(*capacity_bytes, *sector_bytes)
                    .map_err(|reason| wrong(format!("block device {:?}: {reason}", entry.name)))?;
                Properties::Block { capacity_bytes: *capacity_bytes, sector_bytes: *sector_bytes }
            }
            (DeviceKind::Network, Some(DeviceConfig::Network { mac, mtu_bytes })) => {
                Properties::Network { mac: *mac, mtu_bytes: *mtu_bytes }
            }
            (DeviceKind::Block, None) => {
                return Err(wrong(format!(
                    "the image declares block device {0:?}: attach it with --block:{0}=PATH",
                    entry.name
                )));
            }
            (DeviceKind::Network, None) => {
                return Err(wrong(format!(
                    "the image declares network device {0:?}: attach it with --net:{0}=TAP",
                    entry.name
                )));
            }
            (DeviceKind::Block, Some(_)) => {
                return Err(wrong(format!("device {:?} is a block device in the image", entry.name)));
            }
            (DeviceKind::Network, Some(_)) => {
                return Err(wrong(format!("device {:?} is a network device in the image", entry.name)));
            }
        });
    }
    match config.devices.keys().find(|name| image.manifest.entries.iter().all(|entry| entry.name != **name)) {
        Some(name) => Err(wrong(format!("the image declares no device {name:?}"))),
        None => Ok(devices),
    }
}

/// Builds the memory that the guest starts with.
pub(super) fn build_memory(
    image: &Image,
    config: &MachineConfig,
    devices: &[Option<Properties>],
    rewritten: &Rewritten,
) -> Result<GuestMemory, MachineError> {
    let bytes = config.memory_bytes;
    let heap = image.end().next_multiple_of(PAGE_BYTES);
    let needed = heap + STACK_BYTES_MIN;
    if !bytes.is_multiple_of(PAGE_BYTES) || bytes > IMAGE_ADDRESS_END {
        return Err(wrong(format!("{bytes} bytes of memory: it has to be a multiple of 4096 and at most 4 GiB")));
    }
    if bytes < needed {
        return Err(wrong(format!("{bytes} bytes of memory are too few: the image needs {needed}")));
    }
    let mut memory = GuestMemory::new(bytes)?;
    memory.allow(IMAGE_ADDRESS_MIN, bytes, Access::READ_WRITE);
    allow_segments(&mut memory, image)?;
    for segment in &image.segments {
        memory.place(segment.address, &segment.data);
    }
    for patch in &rewritten.patches {
        memory.place(patch.address, &patch.bytes);
    }
    write_boot_info(&mut memory, image, config, devices, heap)?;
    Ok(memory)
}

/// A page that two segments share may do what both may, which must not be to be written and executed.
fn allow_segments(memory: &mut GuestMemory, image: &Image) -> Result<(), MachineError> {
    let mut previous: Option<(u64, Access)> = None;
    for segment in &image.segments {
        let own = Access { mapped: true, writable: segment.writable, executable: segment.executable };
        memory.allow(segment.address, segment.end(), own);
        let first_page = segment.address / PAGE_BYTES;
        if let Some((last_page, access)) = previous
            && last_page == first_page
        {
            let both = Access {
                mapped: true,
                writable: own.writable || access.writable,
                executable: own.executable || access.executable,
            };
            if both.writable && both.executable {
                let address = segment.address;
                return Err(wrong(format!(
                    "the segment at {address:#x} shares a page that is executable with one that is writable"
                )));
            }
            memory.allow(segment.address, segment.address + 1, both);
        }
        previous = Some(((segment.end() - 1) / PAGE_BYTES, own));
    }
    Ok(())
}

fn write_boot_info(
    memory: &mut GuestMemory,
    image: &Image,
    config: &MachineConfig,
    devices: &[Option<Properties>],
    heap: u64,
) -> Result<(), MachineError> {
    let command_line = config.command_line.as_bytes();
    if command_line.len() >= COMMAND_LINE_BYTES_MAX || command_line.contains(&0) {
        let reason = format!("the arguments have to be shorter than {COMMAND_LINE_BYTES_MAX} bytes, without a zero");
        return Err(wrong(reason));
    }
    let manifest = image.manifest.attached(|entry| {
        // `attach` has filled in every declared device.
        devices[usize::from(entry.index)].unwrap_or(Properties::Block { capacity_bytes: 0, sector_bytes: SECTOR_BYTES })
    });
    let command_line_address = BOOT_INFO_ADDRESS + BOOT_INFO_BYTES;
    let manifest_address = (command_line_address + command_line.len() as u64 + 1).next_multiple_of(8);
    let words = [
        config.memory_bytes,
        heap,
        COUNTER_FREQUENCY_HERTZ,
        command_line_address,
        manifest_address,
        // No host features, and no guest features seen; then no ring.
        0,
        0,
    ];
    memory.place(BOOT_INFO_ADDRESS, &words.map(u64::to_le_bytes).concat());
    memory.place(command_line_address, command_line);
    memory.place(manifest_address, &manifest);
    memory.allow(BOOT_INFO_ADDRESS, manifest_address + manifest.len() as u64, Access::READ);
    Ok(())
}
