//! The manifest: which devices the image declares, and what the host filled in (`include/mft_abi.h`), and the notes that
//! carry it and the ABI version in the image (`include/elf_abi.h`).

use core::mem::size_of;

const NAME_BYTES: usize = 68;
const TYPE_BLOCK: u32 = 1;
const TYPE_NETWORK: u32 = 2;
const TYPE_RESERVED_FIRST: u32 = 1 << 30;
/// The most entries that a manifest may have.
const ENTRIES_MAX: usize = 64;

/// One device. Entry 0 is reserved; a handle is an index into the entries.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Entry {
    name: [u8; NAME_BYTES],
    kind: u32,
    properties: [u8; 16],
    tender: u64,
    attached: bool,
}

const _: () = assert!(size_of::<Entry>() == 104);

impl Entry {
    const fn new(name: &str, kind: u32) -> Entry {
        let name = name.as_bytes();
        assert!(name.len() < NAME_BYTES);
        let mut padded = [0; NAME_BYTES];
        let mut index = 0;
        while index < name.len() {
            padded[index] = name[index];
            index += 1;
        }
        Entry { name: padded, kind, properties: [0; 16], tender: 0, attached: false }
    }

    /// The reserved first entry.
    pub const fn reserved_first() -> Entry {
        Entry::new("", TYPE_RESERVED_FIRST)
    }

    /// A block device.
    pub const fn block(name: &str) -> Entry {
        Entry::new(name, TYPE_BLOCK)
    }

    /// A network device.
    pub const fn network(name: &str) -> Entry {
        Entry::new(name, TYPE_NETWORK)
    }

    fn has_name(&self, name: &str) -> bool {
        self.name.split(|byte| *byte == 0).next() == Some(name.as_bytes())
    }
}

/// What the host says of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockProperties {
    /// index into the manifest
    pub handle: u64,
    /// size in bytes
    pub capacity: u64,
    /// size of a block in bytes
    pub block_bytes: u16,
}

/// What the host says of a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkProperties {
    /// index into the manifest
    pub handle: u64,
    /// Ethernet address
    pub mac: [u8; 6],
    /// largest IP packet in bytes
    pub mtu: u16,
}

/// The manifest as the host hands it over at boot: this head, then `count` entries.
#[repr(C, align(8))]
pub struct Manifest {
    version: u32,
    count: u32,
}

impl Manifest {
    fn entries(&self) -> &[Entry] {
        let count = (self.count as usize).min(ENTRIES_MAX);
        // SAFETY: the ABI promises that `count` entries follow the head, and that they stay as they are.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).add(1).cast::<Entry>(), count) }
    }

    fn find(&self, name: &str, kind: u32) -> Option<(u64, &Entry)> {
        let mut entries = (0..).zip(self.entries());
        entries.find(|(_, entry)| entry.kind == kind && entry.attached && entry.has_name(name))
    }

    /// The attached block device of that name.
    pub fn block(&self, name: &str) -> Option<BlockProperties> {
        let (handle, Entry { properties: p, .. }) = self.find(name, TYPE_BLOCK)?;
        let capacity = u64::from_le_bytes([p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]]);
        Some(BlockProperties { handle, capacity, block_bytes: u16::from_le_bytes([p[8], p[9]]) })
    }

    /// The attached network device of that name.
    pub fn network(&self, name: &str) -> Option<NetworkProperties> {
        let (handle, Entry { properties: p, .. }) = self.find(name, TYPE_NETWORK)?;
        let mac = [p[0], p[1], p[2], p[3], p[4], p[5]];
        Some(NetworkProperties { handle, mac, mtu: u16::from_le_bytes([p[6], p[7]]) })
    }
}

#[repr(C)]
struct NoteHeader {
    name_bytes: u32,
    content_bytes: u32,
    kind: u32,
    name: [u8; 8],
}

impl NoteHeader {
    const fn new(kind: &[u8; 4], note_bytes: usize) -> NoteHeader {
        let content_bytes = (note_bytes - size_of::<NoteHeader>()) as u32;
        NoteHeader { name_bytes: 6, content_bytes, kind: u32::from_le_bytes(*kind), name: *b"Solo5\0\0\0" }
    }
}

/// The note that names the ABI: hvt, version 2.
#[repr(C, align(4))]
pub struct AbiNote {
    header: NoteHeader,
    target: u32,
    version: u32,
    reserved: [u32; 2],
}

impl AbiNote {
    /// The only one there is.
    pub const HVT_2: AbiNote =
        AbiNote { header: NoteHeader::new(b"ABI1", size_of::<AbiNote>()), target: 1, version: 2, reserved: [0; 2] };
}

/// The note that declares the devices. The manifest in it is aligned to 8 bytes, hence the padding behind the header.
#[repr(C, align(8))]
pub struct ManifestNote<const COUNT: usize> {
    header: NoteHeader,
    padding: u32,
    manifest: Manifest,
    entries: [Entry; COUNT],
}

impl<const COUNT: usize> ManifestNote<COUNT> {
    /// Declares these entries, of which the first is the reserved one.
    pub const fn new(entries: [Entry; COUNT]) -> ManifestNote<COUNT> {
        assert!(COUNT >= 1 && COUNT <= ENTRIES_MAX && entries[0].kind == TYPE_RESERVED_FIRST);
        let manifest = Manifest { version: 1, count: COUNT as u32 };
        ManifestNote { header: NoteHeader::new(b"MFT1", size_of::<Self>()), padding: 0, manifest, entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_name_and_type_once_the_host_attached_them() {
        let mut note = ManifestNote::new([Entry::reserved_first(), Entry::network("service"), Entry::block("storage")]);
        assert_eq!(note.manifest.block("storage"), None);

        note.entries[1].attached = true;
        note.entries[1].properties[..8].copy_from_slice(&[2, 0, 0, 0, 0, 9, 0xdc, 5]);
        note.entries[2].attached = true;
        note.entries[2].properties[..10].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 2]);
        let manifest = &note.manifest;
        assert_eq!(
            manifest.network("service"),
            Some(NetworkProperties { handle: 1, mac: [2, 0, 0, 0, 0, 9], mtu: 1500 })
        );
        assert_eq!(manifest.block("storage"), Some(BlockProperties { handle: 2, capacity: 65536, block_bytes: 512 }));
        assert_eq!(manifest.block("service"), None);
        assert_eq!(manifest.network("serv"), None);
    }

    #[test]
    fn notes_have_the_layout_of_the_abi() {
        assert_eq!(size_of::<AbiNote>(), 20 + 16);
        assert_eq!(core::mem::offset_of!(ManifestNote<3>, manifest), 24);
        assert_eq!(core::mem::offset_of!(ManifestNote<3>, entries), 32);
        assert_eq!(ManifestNote::new([Entry::reserved_first()]).header.content_bytes, 4 + 8 + 104);
        assert_eq!(core::mem::offset_of!(Entry, kind), 68);
        assert_eq!(core::mem::offset_of!(Entry, properties), 72);
        assert_eq!(core::mem::offset_of!(Entry, attached), 96);
    }
}
