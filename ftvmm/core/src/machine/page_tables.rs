//! The guest's page tables: identity, 4 KiB pages, W^X. Intel SDM volume 3, chapter 4.5.
//!
//! Accessed and dirty bits are set from the start, so that the processor never writes a table: guest memory then holds
//! nothing that depends on the host.

use super::memory::{Access, PAGE_BYTES};
use super::monitor::{MONITOR_ADDRESS, MONITOR_PAGES, Mapped};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const NO_EXECUTE: u64 = 1 << 63;
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
const ENTRIES: u64 = 512;

/// Where the tables start: behind the monitor's own pages, mapped for nobody.
pub(super) const TABLES_ADDRESS: u64 = MONITOR_ADDRESS + MONITOR_PAGES.len() as u64 * PAGE_BYTES;

/// How many bytes the tables take for a guest of so many pages.
pub(super) fn tables_bytes(guest_pages: usize) -> u64 {
    let tables = (guest_pages as u64).div_ceil(ENTRIES);
    let directories = tables.div_ceil(ENTRIES);
    // The root, the third level, and one table and one directory for the monitor.
    (2 + tables + directories + 2) * PAGE_BYTES
}

/// Writes the tables into `tables`, which stands at [`TABLES_ADDRESS`].
pub(super) fn write(tables: &mut [u8], guest: &[Access]) {
    let mut builder = Builder { tables, used_pages: 2 };
    let monitor = MONITOR_PAGES.iter().enumerate().map(|(index, (access, mapped))| {
        let user = if *mapped == Mapped::Guest { USER } else { 0 };
        (MONITOR_ADDRESS + index as u64 * PAGE_BYTES, user | leaf(*access))
    });
    let guest = guest
        .iter()
        .enumerate()
        .filter(|(_, access)| access.mapped)
        .map(|(index, access)| (index as u64 * PAGE_BYTES, USER | leaf(*access)));
    for (address, flags) in guest.chain(monitor) {
        builder.map(address, flags);
    }
}

fn leaf(access: Access) -> u64 {
    let writable = if access.writable { WRITABLE } else { 0 };
    let no_execute = if access.executable { 0 } else { NO_EXECUTE };
    PRESENT | ACCESSED | DIRTY | writable | no_execute
}

struct Builder<'a> {
    tables: &'a mut [u8],
    used_pages: u64,
}

impl Builder<'_> {
    fn map(&mut self, address: u64, flags: u64) {
        let index = |shift: u32| address >> shift & (ENTRIES - 1);
        let third = self.table(TABLES_ADDRESS + index(39) * 8, Some(TABLES_ADDRESS + PAGE_BYTES));
        let directory = self.table(third + index(30) * 8, None);
        let table = self.table(directory + index(21) * 8, None);
        self.set(table + index(12) * 8, address | flags);
    }

    /// The table that the entry at `slot` points to, made where there is none.
    fn table(&mut self, slot: u64, fixed: Option<u64>) -> u64 {
        let entry = self.get(slot);
        if entry & PRESENT != 0 {
            return entry & !(PAGE_BYTES - 1);
        }
        let table = fixed.unwrap_or_else(|| {
            self.used_pages += 1;
            TABLES_ADDRESS + (self.used_pages - 1) * PAGE_BYTES
        });
        self.set(slot, table | TABLE);
        table
    }

    fn get(&self, address: u64) -> u64 {
        let at = (address - TABLES_ADDRESS) as usize;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.tables[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    fn set(&mut self, address: u64, entry: u64) {
        let at = (address - TABLES_ADDRESS) as usize;
        self.tables[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(tables: &[u8], address: u64) -> u64 {
        let mut entry = TABLES_ADDRESS;
        for shift in [39, 30, 21, 12] {
            let slot = (entry & 0x000f_ffff_ffff_f000) + (address >> shift & 511) * 8 - TABLES_ADDRESS;
            entry = u64::from_le_bytes(tables[slot as usize..slot as usize + 8].try_into().unwrap());
            if entry & PRESENT == 0 {
                return 0;
            }
        }
        entry
    }

    fn tables(guest: &[Access]) -> Vec<u8> {
        let mut tables = vec![0; tables_bytes(guest.len()) as usize];
        write(&mut tables, guest);
        tables
    }

    #[test]
    fn no_page_is_both_writable_and_executable() {
        let mut guest = vec![Access::READ_WRITE; 2000];
        guest[300] = Access::EXECUTE;
        guest[301] = Access::READ;
        guest[0] = Access::default();
        let tables = tables(&guest);
        for (index, access) in guest.iter().enumerate() {
            let entry = look_up(&tables, index as u64 * PAGE_BYTES);
            assert_eq!(entry & PRESENT != 0, access.mapped);
            assert!(entry & WRITABLE == 0 || entry & NO_EXECUTE != 0, "page {index}");
            assert_eq!(entry & WRITABLE != 0, access.writable, "page {index}");
            assert_eq!(access.mapped && entry & NO_EXECUTE == 0, access.executable, "page {index}");
        }
    }

    #[test]
    fn the_guest_reaches_neither_monitor_nor_tables() {
        let tables = tables(&[Access::READ_WRITE; 512]);
        let entries: Vec<u64> = (0..MONITOR_PAGES.len() as u64)
            .map(|index| look_up(&tables, MONITOR_ADDRESS + index * PAGE_BYTES))
            .collect();
        let (system_call, monitor) = entries.split_last().unwrap();
        assert!(monitor.iter().all(|entry| entry & PRESENT != 0 && entry & USER == 0));
        assert_eq!(system_call & (USER | WRITABLE | NO_EXECUTE), USER);
        assert_eq!(look_up(&tables, TABLES_ADDRESS), 0);
    }
}
