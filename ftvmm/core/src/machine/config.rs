//! What a machine is made of besides its image: two machines of equal image and configuration start out equal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cpuid::{CpuidTable, Feature};
use crate::log::Fingerprint;

/// The rate that the guest is told for its time-stamp counter: the counter then counts nanoseconds on every host.
pub const COUNTER_FREQUENCY_HERTZ: u64 = 1_000_000_000;
/// The size of a sector where the configuration does not say.
pub const SECTOR_BYTES: u16 = 512;
/// The MTU where the configuration does not say.
pub const MTU_BYTES: u16 = 1500;

/// What is wrong with a disk of so many bytes in such sectors.
pub(crate) fn check_sectors(capacity_bytes: u64, sector_bytes: u16) -> Result<(), String> {
    if !sector_bytes.is_power_of_two() || sector_bytes < SECTOR_BYTES {
        return Err(format!("its sectors of {sector_bytes} bytes have to be a power of two, 512 or more"));
    }
    if capacity_bytes < u64::from(sector_bytes) {
        return Err(format!("its {capacity_bytes} bytes are less than a sector of {sector_bytes}"));
    }
    if !capacity_bytes.is_multiple_of(u64::from(sector_bytes)) {
        return Err(format!("its {capacity_bytes} bytes are no whole number of sectors of {sector_bytes}"));
    }
    Ok(())
}

/// Memory, command line, devices and processor features of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// A multiple of 4096, at most 4 GiB.
    pub memory_bytes: u64,
    /// What comes after the image's name, separated by blanks.
    #[serde(default)]
    pub command_line: String,
    /// By the device's name in the image's manifest: all that it declares and nothing else.
    #[serde(default)]
    pub devices: BTreeMap<String, DeviceConfig>,
    #[serde(default)]
    pub cpuid: CpuidTable,
}

/// One device as the guest sees it; what stands behind it is the driver's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DeviceConfig {
    Block { capacity_bytes: u64, sector_bytes: u16 },
    Network { mac: [u8; 6], mtu_bytes: u16 },
}

impl MachineConfig {
    /// A machine without devices and with an empty command line.
    pub fn new(memory_bytes: u64) -> MachineConfig {
        MachineConfig {
            memory_bytes,
            command_line: String::new(),
            devices: BTreeMap::new(),
            cpuid: CpuidTable::default(),
        }
    }

    /// Shows the guest these features of the processor.
    pub fn with_features(mut self, features: &[Feature]) -> MachineConfig {
        self.cpuid = self.cpuid.with(features);
        self
    }

    /// Adds a block device with the usual sector size.
    pub fn with_block(mut self, name: &str, capacity_bytes: u64) -> MachineConfig {
        self.devices.insert(name.to_owned(), DeviceConfig::Block { capacity_bytes, sector_bytes: SECTOR_BYTES });
        self
    }

    /// Adds a network device with the usual MTU.
    pub fn with_network(mut self, name: &str, mac: [u8; 6]) -> MachineConfig {
        self.devices.insert(name.to_owned(), DeviceConfig::Network { mac, mtu_bytes: MTU_BYTES });
        self
    }

    /// Equal for two configurations exactly where the guest cannot tell them apart.
    pub fn digest(&self) -> Fingerprint {
        // Debug output of plain data in a fixed order is a complete and stable account of it.
        Fingerprint::of(format!("{self:?}").as_bytes())
    }
}
