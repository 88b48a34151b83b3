//! The manifest: the devices that an image declares. See `include/mft_abi.h` of Solo5.

use super::ImageError;

/// Entries in a manifest, the reserved first one included.
pub const MANIFEST_ENTRIES_MAX: u32 = 64;

const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8;
const ENTRY_BYTES: usize = 104;
const NAME_BYTES: usize = 68;
const TYPE_OFFSET: usize = 68;
const PROPERTIES_OFFSET: usize = 72;
const ATTACHED_OFFSET: usize = 96;
const TYPE_BLOCK: u32 = 1;
const TYPE_NETWORK: u32 = 2;
const TYPE_RESERVED: u32 = 1 << 30;

/// What a declared device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Block,
    Network,
}

/// A declared device; its handle is `index`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestEntry {
    pub index: u8,
    pub name: String,
    pub kind: DeviceKind,
}

/// The devices that an image declares.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Manifest {
    /// In the order of their handles, without the reserved entry 0.
    pub entries: Vec<ManifestEntry>,
}

/// A device's properties as the guest reads them from the attached manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Properties {
    Block { capacity_bytes: u64, sector_bytes: u16 },
    Network { mac: [u8; 6], mtu_bytes: u16 },
}

impl Manifest {
    /// Reads the content of the MFT1 note, which stands at `offset` of the file.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Manifest, ImageError> {
        let error = |at: usize, reason: String| ImageError::at(offset + at as u64, reason);
        let word = |at: usize| bytes.get(at..at + 4).and_then(|s| s.try_into().ok()).map(u32::from_le_bytes);
        let (Some(version), Some(count)) = (word(0), word(4)) else {
            return Err(error(0, "the manifest is cut off".into()));
        };
        if version != VERSION {
            return Err(error(0, format!("the manifest has version {version}, not {VERSION}")));
        }
        if count == 0 || count > MANIFEST_ENTRIES_MAX {
            return Err(error(4, format!("the manifest has {count} entries, not 1 to {MANIFEST_ENTRIES_MAX}")));
        }
        let needed = HEADER_BYTES + count as usize * ENTRY_BYTES;
        if bytes.len() < needed {
            let reason = format!("the manifest needs {needed} bytes for {count} entries and has {}", bytes.len());
            return Err(error(4, reason));
        }
        let mut entries: Vec<ManifestEntry> = Vec::new();
        for index in 0..count as usize {
            let at = HEADER_BYTES + index * ENTRY_BYTES;
            let entry = &bytes[at..at + ENTRY_BYTES];
            let kind = word(at + TYPE_OFFSET).unwrap_or(0);
            if index == 0 {
                if kind != TYPE_RESERVED {
                    return Err(error(at + TYPE_OFFSET, format!("entry 0 has type {kind}, not the reserved one")));
                }
                continue;
            }
            let name = name_of(entry).map_err(|reason| error(at, reason))?;
            if entries.iter().any(|other| other.name == name) {
                return Err(error(at, format!("device {name:?} is declared twice")));
            }
            let kind = match kind {
                TYPE_BLOCK => DeviceKind::Block,
                TYPE_NETWORK => DeviceKind::Network,
                other => return Err(error(at + TYPE_OFFSET, format!("device {name:?} has unknown type {other}"))),
            };
            entries.push(ManifestEntry { index: index as u8, name, kind });
        }
        Ok(Manifest { entries })
    }

    /// The manifest as an image declares it: the content of its MFT1 note.
    pub fn declared(&self) -> Vec<u8> {
        let mut bytes = self.attached(|entry| match entry.kind {
            DeviceKind::Block => Properties::Block { capacity_bytes: 0, sector_bytes: 0 },
            DeviceKind::Network => Properties::Network { mac: [0; 6], mtu_bytes: 0 },
        });
        for entry in &self.entries {
            bytes[HEADER_BYTES + usize::from(entry.index) * ENTRY_BYTES + ATTACHED_OFFSET] = 0;
        }
        bytes
    }

    /// The manifest as the guest gets it: every device attached, with its properties.
    pub fn attached(&self, properties: impl Fn(&ManifestEntry) -> Properties) -> Vec<u8> {
        let count = self.entries.len() + 1;
        let mut bytes = vec![0; HEADER_BYTES + count * ENTRY_BYTES];
        bytes[0..4].copy_from_slice(&VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&(count as u32).to_le_bytes());
        bytes[HEADER_BYTES + TYPE_OFFSET..][..4].copy_from_slice(&TYPE_RESERVED.to_le_bytes());
        for entry in &self.entries {
            let slot = &mut bytes[HEADER_BYTES + usize::from(entry.index) * ENTRY_BYTES..][..ENTRY_BYTES];
            slot[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
            let union = &mut slot[TYPE_OFFSET..];
            let kind = match properties(entry) {
                Properties::Block { capacity_bytes, sector_bytes } => {
                    union[PROPERTIES_OFFSET - TYPE_OFFSET..][..8].copy_from_slice(&capacity_bytes.to_le_bytes());
                    union[PROPERTIES_OFFSET - TYPE_OFFSET + 8..][..2].copy_from_slice(&sector_bytes.to_le_bytes());
                    TYPE_BLOCK
                }
                Properties::Network { mac, mtu_bytes } => {
                    union[PROPERTIES_OFFSET - TYPE_OFFSET..][..6].copy_from_slice(&mac);
                    union[PROPERTIES_OFFSET - TYPE_OFFSET + 6..][..2].copy_from_slice(&mtu_bytes.to_le_bytes());
                    TYPE_NETWORK
                }
            };
            slot[TYPE_OFFSET..][..4].copy_from_slice(&kind.to_le_bytes());
            slot[ATTACHED_OFFSET] = 1;
        }
        bytes
    }
}

fn name_of(entry: &[u8]) -> Result<String, String> {
    let name = entry[..NAME_BYTES].split(|byte| *byte == 0).next().unwrap_or_default();
    if name.is_empty() || name.len() == NAME_BYTES {
        return Err(format!("a device's name has to have 1 to {} characters and a zero", NAME_BYTES - 1));
    }
    match name.iter().all(u8::is_ascii_alphanumeric) {
        true => Ok(String::from_utf8_lossy(name).into_owned()),
        false => Err("a device's name has a character other than A-Z, a-z and 0-9".to_owned()),
    }
}
