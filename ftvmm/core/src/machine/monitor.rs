//! The few pages at ring 0 between guest and VMM: GDT, TSS with I/O bitmap, IDT, trap stubs and the trap stack. And one
//! that the guest may execute, on which a stray SYSCALL ends.
//!
//! Intel SDM volume 3: 3.4.5 (segment descriptors), 6.14.1 (64-bit IDT), 7.7 (64-bit TSS), 19.5.2 (I/O bitmap).

use super::memory::{Access, PAGE_BYTES};
use crate::determinism::SITE_PORT;

/// Above all guest memory.
pub(super) const MONITOR_ADDRESS: u64 = 1 << 32;
/// Stubs, tables, stack; and the page for SYSCALL, which is the guest's.
pub(super) const MONITOR_PAGES: [(Access, Mapped); 4] = [
    (Access::EXECUTE, Mapped::Monitor),
    (Access::READ, Mapped::Monitor),
    (Access::READ_WRITE, Mapped::Monitor),
    (Access::EXECUTE, Mapped::Guest),
];

/// For whom a page is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    Monitor,
    Guest,
}

const STUBS_ADDRESS: u64 = MONITOR_ADDRESS;
const TABLES_OFFSET: usize = PAGE_BYTES as usize;
const TRAP_STACK_END: u64 = MONITOR_ADDRESS + 3 * PAGE_BYTES;

const GDT_OFFSET: usize = 0;
const GDT_BYTES: usize = 0x30;
const IDT_OFFSET: usize = 0x100;
const VECTORS: u8 = 32;
const IDT_BYTES: usize = VECTORS as usize * 16;
const TSS_OFFSET: usize = 0x400;
const TSS_FIXED_BYTES: usize = 104;

/// Ring-0 code, for the stubs only.
const STUB_CODE_SELECTOR: u16 = 0x08;
/// What the stock bindings load into SS, DS and ES, at the guest's privilege.
pub(super) const DATA_SELECTOR: u16 = 0x10 | 3;
pub(super) const TASK_SELECTOR: u16 = 0x18;
pub(super) const CODE_SELECTOR: u16 = 0x28 | 3;

/// A trap of vector n is an `out` to this port plus n, which only ring 0 may use.
pub(super) const TRAP_PORT: u16 = 0x20;
/// Hypercall n is an `out` to this port plus n.
pub(super) const HYPERCALL_PORT: u16 = 0x500;
/// The bitmap is asked for each byte of a 32-bit `out`: three ports more than there are hypercalls.
const HYPERCALL_PORTS_END: u16 = HYPERCALL_PORT + 9 + 3;
const BITMAP_BYTES: usize = HYPERCALL_PORTS_END as usize / 8 + 1;

pub(super) const GDT_ADDRESS: u64 = MONITOR_ADDRESS + TABLES_OFFSET as u64 + GDT_OFFSET as u64;
pub(super) const GDT_LIMIT: u16 = GDT_BYTES as u16 - 1;
pub(super) const IDT_ADDRESS: u64 = MONITOR_ADDRESS + TABLES_OFFSET as u64 + IDT_OFFSET as u64;
pub(super) const IDT_LIMIT: u16 = IDT_BYTES as u16 - 1;
pub(super) const TSS_ADDRESS: u64 = MONITOR_ADDRESS + TABLES_OFFSET as u64 + TSS_OFFSET as u64;
/// One byte of ones has to follow the bitmap.
pub(super) const TSS_LIMIT: u32 = (TSS_FIXED_BYTES + BITMAP_BYTES) as u32;

/// Vectors for which the processor pushes an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX.
const WITH_ERROR_CODE: [u8; 10] = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];
const BREAKPOINT: u8 = 3;
const STUB_BYTES: usize = 16;

/// What LSTAR holds. SYSCALL is turned off and should raise #UD; KVM-PVM goes there all the same, and stays at CPL 3.
pub(super) const SYSTEM_CALL_ADDRESS: u64 = TRAP_STACK_END;
const UNDEFINED: [u8; 2] = [0x0f, 0x0b];

/// Where the processor pushes its frame, from the monitor's start: the stack is empty before each trap.
pub(super) const FRAME_OFFSET: usize = (TRAP_STACK_END - MONITOR_ADDRESS) as usize - FRAME_BYTES;
const FRAME_BYTES: usize = 48;

/// What the processor pushed: all that a trap tells about the guest, and where the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub error_code: u64,
    pub rip: u64,
    pub code_selector: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub data_selector: u64,
}

impl Frame {
    pub fn read(monitor: &[u8]) -> Frame {
        let word = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&monitor[FRAME_OFFSET + 8 * index..][..8]);
            u64::from_le_bytes(bytes)
        };
        Frame {
            error_code: word(0),
            rip: word(1),
            code_selector: word(2),
            rflags: word(3),
            rsp: word(4),
            data_selector: word(5),
        }
    }

    pub fn write(&self, monitor: &mut [u8]) {
        let words = [self.error_code, self.rip, self.code_selector, self.rflags, self.rsp, self.data_selector];
        for (index, word) in words.iter().enumerate() {
            monitor[FRAME_OFFSET + 8 * index..][..8].copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Writes the monitor's pages into `monitor`, which stands at [`MONITOR_ADDRESS`].
///
/// `task_type` is the type of the TSS's descriptor: 11 (busy), or 9 where the host's KVM wants that.
pub(super) fn write(monitor: &mut [u8], task_type: u8) {
    write_stubs(&mut monitor[..PAGE_BYTES as usize]);
    let tables = &mut monitor[TABLES_OFFSET..TABLES_OFFSET + PAGE_BYTES as usize];
    write_gdt(&mut tables[GDT_OFFSET..GDT_OFFSET + GDT_BYTES], task_type);
    write_idt(&mut tables[IDT_OFFSET..IDT_OFFSET + IDT_BYTES]);
    write_tss(&mut tables[TSS_OFFSET..=TSS_OFFSET + TSS_LIMIT as usize]);
    monitor[(SYSTEM_CALL_ADDRESS - MONITOR_ADDRESS) as usize..][..UNDEFINED.len()].copy_from_slice(&UNDEFINED);
}

/// Each stub: `push 0` where the processor pushed no error code, `out`, drop the error code, `iretq`.
fn write_stubs(page: &mut [u8]) {
    for vector in 0..VECTORS {
        let push: &[u8] = if WITH_ERROR_CODE.contains(&vector) { &[] } else { &[0x6a, 0] };
        let rest = [0xe6, TRAP_PORT as u8 + vector, 0x48, 0x83, 0xc4, 8, 0x48, 0xcf];
        let stub = [push, &rest].concat();
        page[usize::from(vector) * STUB_BYTES..][..stub.len()].copy_from_slice(&stub);
    }
}

fn write_gdt(gdt: &mut [u8], task_type: u8) {
    let flat = |kind: u64, privilege: u64, flags: u64| {
        0xffff | kind << 40 | 1 << 44 | privilege << 45 | 1 << 47 | 0xf << 48 | flags << 52
    };
    let (long, big, granular) = (0b0010, 0b0100, 0b1000);
    let task_low = u64::from(TSS_LIMIT & 0xffff)
        | (TSS_ADDRESS & 0xff_ffff) << 16
        | u64::from(task_type) << 40
        | 1 << 47
        | (TSS_ADDRESS >> 24 & 0xff) << 56;
    let descriptors = [
        0,
        flat(0xb, 0, long | granular),
        flat(0x3, 3, big | granular),
        task_low,
        TSS_ADDRESS >> 32,
        flat(0xb, 3, long | granular),
    ];
    for (index, descriptor) in descriptors.iter().enumerate() {
        gdt[index * 8..][..8].copy_from_slice(&descriptor.to_le_bytes());
    }
}

fn write_idt(idt: &mut [u8]) {
    for vector in 0..VECTORS {
        let address = STUBS_ADDRESS + u64::from(vector) * STUB_BYTES as u64;
        // INT3 is the one gate that the guest may go through by itself.
        let privilege = if vector == BREAKPOINT { 3 } else { 0 };
        let low = address & 0xffff
            | u64::from(STUB_CODE_SELECTOR) << 16
            | 0xe << 40
            | privilege << 45
            | 1 << 47
            | (address >> 16 & 0xffff) << 48;
        let gate = &mut idt[usize::from(vector) * 16..][..16];
        gate[..8].copy_from_slice(&low.to_le_bytes());
        gate[8..].copy_from_slice(&(address >> 32).to_le_bytes());
    }
}

fn write_tss(tss: &mut [u8]) {
    tss[4..12].copy_from_slice(&TRAP_STACK_END.to_le_bytes());
    tss[102..104].copy_from_slice(&(TSS_FIXED_BYTES as u16).to_le_bytes());
    let bitmap = &mut tss[TSS_FIXED_BYTES..];
    bitmap.fill(0xff);
    for port in std::iter::once(u16::from(SITE_PORT)).chain(HYPERCALL_PORT..HYPERCALL_PORTS_END) {
        bitmap[usize::from(port / 8)] &= !(1 << (port % 8));
    }
}
