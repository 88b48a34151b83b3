//! The vCPU: entering the guest, leaving it, and its registers.

use std::ops::Range;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, Msrs, kvm_dtable, kvm_fpu, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};

use super::kicker::Kicker;
use super::memory::GuestMemory;
use super::monitor::{
    self, CODE_SELECTOR, DATA_SELECTOR, GDT_ADDRESS, GDT_LIMIT, IDT_ADDRESS, IDT_LIMIT, MONITOR_ADDRESS, MONITOR_PAGES,
    SYSTEM_CALL_ADDRESS, TASK_SELECTOR, TSS_ADDRESS, TSS_LIMIT,
};
use super::page_tables::{self, TABLES_ADDRESS};
use super::{CpuidTable, MachineError};

/// Protected mode, monitor coprocessor, extension type, numeric error, write protect, paging.
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// Time-stamp disable, physical address extension, FXSR and SIMD exceptions. PCE and OSXSAVE stay off.
const CR4: u64 = 1 << 2 | 1 << 5 | 1 << 9 | 1 << 10;
/// User-mode instruction prevention: SGDT, SIDT, SLDT, STR and SMSW raise #GP at CPL 3.
const CR4_UMIP: u64 = 1 << 11;
/// RDFSBASE and WRFSBASE, for images that use them.
const CR4_FSGSBASE: u64 = 1 << 16;
/// Long mode enabled and active, no-execute. SYSCALL stays off.
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// Where SYSCALL goes: AMD APM volume 2, 6.1.1.
const MSR_LSTAR: u32 = 0xc000_0082;
/// All x87 exceptions masked, extended precision.
const X87_CONTROL_WORD: u16 = 0x37f;
/// All SIMD exceptions masked.
const MXCSR: u32 = 0x1f80;
/// The legacy area of XSAVE up to XMM15: Intel SDM volume 1, 13.4.1.
const FLOATING_POINT_BYTES: usize = 416;
/// What is in it.
const MXCSR_BYTES: Range<usize> = 24..28;
const MXCSR_MASK: Range<usize> = 28..32;
const X87_REGISTERS: Range<usize> = 32..160;
/// Which parts of an area are in use, and the two that are here: 13.4.2.
const XSTATE_BV: Range<usize> = 512..520;
const X87_AND_SSE: u64 = 3;
/// Where real mode would keep its TSS on VT-x; never reached, as the vCPU starts in long mode.
const REAL_MODE_TSS_ADDRESS: u64 = 0xfffb_d000;
/// KVM wants addresses within a page of the TSS's three pages to be free of guest memory.
const REAL_MODE_TSS_BYTES: u64 = 3 << 12;

const MEMORY_SLOT: u32 = 0;
const MONITOR_SLOT: u32 = 1;

fn memory_region(slot: u32, address: u64, region: &GuestMemory, flags: u32) -> kvm_userspace_memory_region {
    kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: address,
        memory_size: region.bytes(),
        userspace_addr: region.host_address(),
    }
}

/// The state of the x87 and of the XMM registers, as XSAVE lays it out.
pub(super) type FloatingPoint = [u8; FLOATING_POINT_BYTES];

/// Why the guest was left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// An `out`; `value` has `width_bytes` bytes.
    Out { port: u16, value: u32, width_bytes: usize },
    /// An `in`, which the bitmap lets through where it lets an `out` through.
    In { port: u16 },
    /// A kick, or a signal.
    Interrupted,
    /// Nothing that a guest can bring about: the host cannot go on with it.
    Unforeseen(String),
}

/// Where the vCPU starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub rip: u64,
    pub rsp: u64,
    pub rdi: u64,
    /// Whether the guest may move FS by itself.
    pub sets_fs_base: bool,
}

/// How a vCPU is set up, as far as hosts differ in what they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuSetup {
    /// The type of the TSS's descriptor.
    pub task_type: u8,
    /// Whether KVM is told the processor that the guest sees, and not all that KVM can do.
    pub guest_cpuid: bool,
    /// Whether CR4.UMIP is set.
    pub umip: bool,
}

/// A VM with one vCPU; field order is drop order.
pub(super) struct Vcpu {
    vcpu: VcpuFd,
    vm: VmFd,
    monitor: GuestMemory,
    kicker: Kicker,
}

impl Vcpu {
    /// Makes a VM around `memory`, which the caller keeps alive and in place for as long as the vCPU.
    pub fn new(
        kvm: &Kvm,
        memory: &GuestMemory,
        start: Start,
        setup: VcpuSetup,
        cpuid: &CpuidTable,
    ) -> Result<Vcpu, MachineError> {
        let vm = kvm.create_vm().map_err(MachineError::kvm("create a VM"))?;
        let monitor_bytes = TABLES_ADDRESS - MONITOR_ADDRESS + page_tables::tables_bytes(memory.pages().len());
        let mut monitor = GuestMemory::new(monitor_bytes)?;
        monitor::write(monitor.all_mut(), setup.task_type);
        page_tables::write(&mut monitor.all_mut()[(TABLES_ADDRESS - MONITOR_ADDRESS) as usize..], memory.pages());
        for (slot, address, region) in [(MEMORY_SLOT, 0, memory), (MONITOR_SLOT, MONITOR_ADDRESS, &monitor)] {
            // SAFETY: the region is a mapping of that size, which outlives the VM: `monitor` is dropped after the
            // descriptors, and the caller answers for `memory`. The slots do not overlap.
            unsafe { vm.set_user_memory_region(memory_region(slot, address, region, 0)) }
                .map_err(MachineError::kvm("take guest memory"))?;
        }
        if memory.bytes() <= REAL_MODE_TSS_ADDRESS - REAL_MODE_TSS_BYTES {
            vm.set_tss_address(REAL_MODE_TSS_ADDRESS as usize).map_err(MachineError::kvm("set the TSS address"))?;
        }
        let vcpu = vm.create_vcpu(0).map_err(MachineError::kvm("create a vCPU"))?;
        let cpuid = match setup.guest_cpuid {
            true => CpuId::from_entries(&cpuid.for_kvm(start.sets_fs_base, setup.umip))
                .map_err(|_| MachineError::Config { reason: "the CPUID table has too many leaves".into() })?,
            false => kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(MachineError::kvm("tell its CPUID"))?,
        };
        vcpu.set_cpuid2(&cpuid).map_err(MachineError::kvm("set CPUID"))?;
        let mut vcpu = Vcpu { vcpu, vm, monitor, kicker: Kicker::new() };
        vcpu.set_system_registers(setup, start.sets_fs_base)?;
        vcpu.set_system_call_target()?;
        vcpu.set_start(start)?;
        Ok(vcpu)
    }

    fn set_system_call_target(&mut self) -> Result<(), MachineError> {
        let lstar = kvm_msr_entry { index: MSR_LSTAR, data: SYSTEM_CALL_ADDRESS, ..Default::default() };
        let too_many = |_| MachineError::Host { reason: "one MSR is one too many".into() };
        let msrs = Msrs::from_entries(&[lstar]).map_err(too_many)?;
        match self.vcpu.set_msrs(&msrs).map_err(MachineError::kvm("set LSTAR"))? {
            1 => Ok(()),
            _ => Err(MachineError::Host { reason: "its KVM takes no LSTAR".into() }),
        }
    }

    fn set_system_registers(&mut self, setup: VcpuSetup, sets_fs_base: bool) -> Result<(), MachineError> {
        let mut registers = self.vcpu.get_sregs().map_err(MachineError::kvm("read system registers"))?;
        let data = kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector: DATA_SELECTOR,
            type_: 3,
            present: 1,
            dpl: 3,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        registers.cs = kvm_segment { selector: CODE_SELECTOR, type_: 11, db: 0, l: 1, ..data };
        (registers.ss, registers.ds, registers.es, registers.fs, registers.gs) = (data, data, data, data, data);
        registers.tr = kvm_segment {
            base: TSS_ADDRESS,
            limit: TSS_LIMIT,
            selector: TASK_SELECTOR,
            type_: setup.task_type,
            present: 1,
            ..Default::default()
        };
        registers.ldt = kvm_segment { type_: 2, unusable: 1, ..Default::default() };
        registers.gdt = kvm_dtable { base: GDT_ADDRESS, limit: GDT_LIMIT, ..Default::default() };
        registers.idt = kvm_dtable { base: IDT_ADDRESS, limit: IDT_LIMIT, ..Default::default() };
        registers.cr0 = CR0;
        registers.cr3 = TABLES_ADDRESS;
        registers.cr4 = CR4;
        registers.cr4 |= if sets_fs_base { CR4_FSGSBASE } else { 0 };
        registers.cr4 |= if setup.umip { CR4_UMIP } else { 0 };
        registers.efer = EFER;
        self.vcpu.set_sregs(&registers).map_err(MachineError::kvm("set system registers"))
    }

    fn set_start(&mut self, start: Start) -> Result<(), MachineError> {
        let registers = kvm_regs { rip: start.rip, rsp: start.rsp, rdi: start.rdi, rflags: 2, ..Default::default() };
        let fpu = kvm_fpu { fcw: X87_CONTROL_WORD, mxcsr: MXCSR, ..Default::default() };
        self.vcpu.set_fpu(&fpu).map_err(MachineError::kvm("set the floating-point state"))?;
        self.set_registers(&registers)
    }

    /// Of a vCPU that has not run: nothing is under way that KVM would have to complete first.
    fn set_registers(&mut self, registers: &kvm_regs) -> Result<(), MachineError> {
        self.vcpu.set_regs(registers).map_err(MachineError::kvm("set registers"))?;
        self.vcpu.set_sync_valid_reg(SyncReg::Register);
        self.vcpu.sync_regs_mut().regs = *registers;
        Ok(())
    }

    /// Puts the registers of another vCPU into one that has not run.
    pub fn restore(
        &mut self,
        registers: &kvm_regs,
        fs_base: u64,
        floating_point: &FloatingPoint,
    ) -> Result<(), MachineError> {
        self.set_registers(registers)?;
        self.set_fs_base(fs_base)?;
        let bytes = self.vm.check_extension_int(Cap::Xsave2);
        if bytes > size_of::<kvm_xsave>() as i32 {
            let reason = format!("its KVM keeps {bytes} bytes of extended state, and 4096 are known");
            return Err(MachineError::Host { reason });
        }
        // Not KVM_SET_FPU: it does not say that the x87's registers are in use, so that the guest might find them empty.
        let mut area = [0; size_of::<kvm_xsave>()];
        area[..floating_point.len()].copy_from_slice(floating_point);
        area[XSTATE_BV].copy_from_slice(&X87_AND_SSE.to_le_bytes());
        let mut xsave = kvm_xsave::default();
        for (word, bytes) in xsave.region.iter_mut().zip(area.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        // SAFETY: KVM reads no more than the structure has, as it has just said.
        unsafe { self.vcpu.set_xsave(&xsave) }.map_err(MachineError::kvm("set the floating-point state"))
    }

    /// FS base and floating-point state.
    ///
    /// Not from KVM_GET_FPU: what a processor has in its initial state it need not save, and that would tell what was there before.
    pub fn extended(&self) -> Result<(u64, FloatingPoint), MachineError> {
        let segments = self.vcpu.get_sregs().map_err(MachineError::kvm("read system registers"))?;
        let xsave = self.vcpu.get_xsave().map_err(MachineError::kvm("read the floating-point state"))?;
        let mut floating_point = [0; FLOATING_POINT_BYTES];
        for (bytes, word) in floating_point.as_chunks_mut().0.iter_mut().zip(&xsave.region) {
            *bytes = word.to_le_bytes();
        }
        // What MXCSR can hold is up to the processor.
        floating_point[MXCSR_MASK].fill(0);
        Ok((segments.fs.base, floating_point))
    }

    /// Has KVM note which pages of guest memory are written, or stops it.
    pub fn track_writes(&mut self, memory: &GuestMemory, tracked: bool) -> Result<(), MachineError> {
        let flags = if tracked { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        // SAFETY: the very region that the slot has already; only its flags change.
        unsafe { self.vm.set_user_memory_region(memory_region(MEMORY_SLOT, 0, memory, flags)) }
            .map_err(MachineError::kvm("note what is written"))
    }

    /// What KVM has noted since the last call, one bit a page.
    pub fn written(&self, memory: &GuestMemory) -> Result<Vec<u64>, MachineError> {
        let written = self.vm.get_dirty_log(MEMORY_SLOT, memory.bytes() as usize);
        written.map_err(MachineError::kvm("tell what was written"))
    }

    pub fn kicker(&self) -> Kicker {
        self.kicker.clone()
    }

    /// Runs the guest until it leaves.
    pub fn enter(&mut self) -> Result<Exit, MachineError> {
        let immediate_exit: *mut u8 = &mut self.vcpu.get_kvm_run().immediate_exit;
        let Some(running) = self.kicker.begin(immediate_exit) else {
            self.vcpu.set_kvm_immediate_exit(0);
            return Ok(Exit::Interrupted);
        };
        let exit = match self.vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                let mut value = [0; 4];
                let width_bytes = data.len().min(4);
                value[..width_bytes].copy_from_slice(&data[..width_bytes]);
                Ok(Exit::Out { port, value: u32::from_le_bytes(value), width_bytes: data.len() })
            }
            Ok(VcpuExit::IoIn(port, _)) => Ok(Exit::In { port }),
            Ok(VcpuExit::Intr) => Ok(Exit::Interrupted),
            Ok(VcpuExit::Shutdown) => Ok(Exit::Unforeseen("a fault within a fault shut the processor down".into())),
            Ok(other) => Ok(Exit::Unforeseen(format!("KVM left the guest for an unforeseen reason: {other:?}"))),
            Err(error) if error.errno() == libc::EINTR => Ok(Exit::Interrupted),
            Err(error) => Err(MachineError::kvm("run the guest")(error)),
        };
        if matches!(exit, Ok(Exit::Interrupted)) {
            running.was_interrupted();
            self.vcpu.set_kvm_immediate_exit(0);
        }
        exit
    }

    /// The general registers at the last exit, with what has been changed since.
    pub fn registers(&mut self) -> &kvm_regs {
        &self.vcpu.sync_regs_mut().regs
    }

    /// The same, to be changed; RIP has to stay as it is.
    pub fn registers_mut(&mut self) -> &mut kvm_regs {
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        &mut self.vcpu.sync_regs_mut().regs
    }

    /// The pages at ring 0.
    pub fn monitor(&mut self) -> &mut [u8] {
        &mut self.monitor.all_mut()[..MONITOR_PAGES.len() << 12]
    }

    pub fn set_fs_base(&mut self, base: u64) -> Result<(), MachineError> {
        let mut registers = self.vcpu.get_sregs().map_err(MachineError::kvm("read system registers"))?;
        registers.fs.base = base;
        self.vcpu.set_sregs(&registers).map_err(MachineError::kvm("set system registers"))
    }

    /// The address of the last page fault.
    pub fn fault_address(&self) -> Result<u64, MachineError> {
        Ok(self.vcpu.get_sregs().map_err(MachineError::kvm("read system registers"))?.cr2)
    }

    /// FS base and floating-point state, as bytes in a fixed order.
    pub fn extended_state(&self) -> Result<Vec<u8>, MachineError> {
        let (fs_base, area) = self.extended()?;
        let mut bytes = fs_base.to_le_bytes().to_vec();
        // Control, status and tag word, MXCSR. An x87 register has 10 bytes; what lies behind them is anybody's guess.
        bytes.extend_from_slice(&area[..5]);
        bytes.extend_from_slice(&area[MXCSR_BYTES]);
        area[X87_REGISTERS].as_chunks::<16>().0.iter().for_each(|register| bytes.extend_from_slice(&register[..10]));
        bytes.extend_from_slice(&area[X87_REGISTERS.end..]);
        Ok(bytes)
    }
}
