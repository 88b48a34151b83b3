//! From what a user asks for on the command line to a machine and its world.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use thiserror::Error;

use crate::devices::{BlockFile, Console, DeviceError, Sharing, Tap, World};
use crate::image::{Image, ImageError};
use crate::log::{Close, Header, LogError, LogReader, LogWriter};
use crate::machine::{DeviceConfig, Feature, Machine, MachineConfig, MachineError};
use crate::remark::remark;

/// What to run, and on what.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    pub image: PathBuf,
    pub memory_mib: u64,
    /// What the guest is shown of the processor beyond x86-64-v2.
    #[serde(default)]
    pub features: Vec<Feature>,
    #[serde(default)]
    pub arguments: Vec<String>,
    #[serde(default)]
    pub network: Vec<NetworkAttachment>,
    #[serde(default)]
    pub block: Vec<BlockAttachment>,
    /// Where to record the run.
    #[serde(default)]
    pub record: Option<PathBuf>,
}

/// A network device and the TAP interface behind it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkAttachment {
    pub name: String,
    pub tap: String,
    /// Six pairs of hexadecimal digits, with colons.
    pub mac: String,
}

/// A block device and the file behind it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockAttachment {
    pub name: String,
    pub path: PathBuf,
    pub sector_bytes: u16,
}

/// Why what a user asks for cannot be run.
#[derive(Debug, Error)]
pub enum SetupError {
    #[error("{} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Image { path: PathBuf, source: ImageError },
    #[error("{}: {source}", path.display())]
    Log { path: PathBuf, source: LogError },
    #[error("{mac:?} is no MAC address for a host: six pairs of hexadecimal digits with colons, the first one even")]
    Mac { mac: String },
    #[error("device {name:?} is attached twice")]
    Twice { name: String },
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Reads and checks an image.
pub fn read_image(path: &Path) -> Result<Image, SetupError> {
    let file = fs::read(path).map_err(|source| SetupError::Read { path: path.to_owned(), source })?;
    Image::parse(&file).map_err(|source| SetupError::Image { path: path.to_owned(), source })
}

/// Builds what a live run needs. Nothing is changed on the host before all of it is there.
pub fn prepare_run(config: &RunConfig) -> Result<(Machine, World, Option<LogWriter>), SetupError> {
    let image = read_image(&config.image)?;
    let mut machine_config =
        MachineConfig::new(config.memory_mib.saturating_mul(1 << 20)).with_features(&config.features);
    machine_config.command_line = config.arguments.join(" ");
    let mut world = World::new(Console::standard_output()?);
    let index = |name: &str| image.manifest.entries.iter().find(|entry| entry.name == name).map(|entry| entry.index);
    for NetworkAttachment { name, tap, mac } in &config.network {
        let mac = parse_mac(mac).ok_or_else(|| SetupError::Mac { mac: mac.clone() })?;
        let tap = Arc::new(Tap::open(tap)?);
        attach(&mut machine_config, name, DeviceConfig::Network { mac, mtu_bytes: tap.mtu_bytes() })?;
        if let Some(index) = index(name) {
            world.devices.add_tap(index, tap);
        }
    }
    for BlockAttachment { name, path, sector_bytes } in &config.block {
        let block = Arc::new(BlockFile::open(path, Sharing::Own, *sector_bytes)?);
        let device = DeviceConfig::Block { capacity_bytes: block.capacity_bytes(), sector_bytes: *sector_bytes };
        attach(&mut machine_config, name, device)?;
        if let Some(index) = index(name) {
            world.devices.add_block(index, block);
        }
    }
    let machine = Machine::new(&image, &machine_config)?;
    if let Some(doubt) = machine.doubt() {
        remark(format!("ftvmm: {doubt}"));
    }
    let recording = match &config.record {
        None => None,
        Some(path) => {
            let header = Header::new(&config.image, image.digest(), machine_config);
            let log = LogWriter::create(path, &header);
            Some(log.map_err(|source| SetupError::Log { path: path.clone(), source })?)
        }
    };
    Ok((machine, world, recording))
}

/// A log that was checked to its last byte, and how it closes.
pub struct Recorded {
    pub log: LogReader,
    pub close: Close,
    /// Where the guest depends on its host, and was recorded on another kind: in what they differ.
    pub other_host: Option<String>,
}

/// Builds what a replay needs; the image is the one that the log names, unless another path is given.
pub fn prepare_replay(path: &Path, image: Option<&Path>) -> Result<(Machine, Recorded), SetupError> {
    let wrong = |source| SetupError::Log { path: path.to_owned(), source };
    let log = LogReader::open(path).map_err(wrong)?;
    let close = log.check_all().map_err(wrong)?;
    let image = read_image(image.unwrap_or(Path::new(&log.header().image_path)))?;
    log.check_image(image.digest()).map_err(wrong)?;
    let machine = Machine::new(&image, &log.header().config)?;
    let other_host = machine.other_host(log.header().host);
    Ok((machine, Recorded { log, close, other_host }))
}

fn attach(config: &mut MachineConfig, name: &str, device: DeviceConfig) -> Result<(), SetupError> {
    match config.devices.insert(name.to_owned(), device) {
        None => Ok(()),
        Some(_) => Err(SetupError::Twice { name: name.to_owned() }),
    }
}

/// A unicast MAC address.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_six_bytes_and_unicast() {
        assert_eq!(parse_mac("02:00:00:00:00:fF"), Some([2, 0, 0, 0, 0, 255]));
        for text in
            ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "01:00:00:00:00:00", "02:00:00:00:00:+1", "2:0:0:0:0:0"]
        {
            assert_eq!(parse_mac(text), None, "{text:?}");
        }
    }
}
