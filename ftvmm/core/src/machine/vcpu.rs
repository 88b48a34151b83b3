//! The vCPU: entering the guest, leaving it, and its registers.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_dtable, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};

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
/// Where real mode would keep its TSS on VT-x; never reached, as the vCPU starts in long mode.
const REAL_MODE_TSS_ADDRESS: u64 = 0xfffb_d000;
/// KVM wants addresses within a page of the TSS's three pages to be free of guest memory.
const REAL_MODE_TSS_BYTES: u64 = 3 << 12;

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
    _vm: VmFd,
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
        for (slot, address, region) in [(0, 0, memory), (1, MONITOR_ADDRESS, &monitor)] {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: address,
                memory_size: region.bytes(),
                userspace_addr: region.host_address(),
            };
            // SAFETY: the region is a mapping of that size, which outlives the VM: `monitor` is dropped after the
            // descriptors, and the caller answers for `memory`. The slots do not overlap.
            unsafe { vm.set_user_memory_region(region) }.map_err(MachineError::kvm("take guest memory"))?;
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
        let mut vcpu = Vcpu { vcpu, _vm: vm, monitor, kicker: Kicker::new() };
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
        self.vcpu.set_regs(&registers).map_err(MachineError::kvm("set registers"))?;
        let fpu = kvm_fpu { fcw: X87_CONTROL_WORD, mxcsr: MXCSR, ..Default::default() };
        self.vcpu.set_fpu(&fpu).map_err(MachineError::kvm("set the floating-point state"))?;
        self.vcpu.set_sync_valid_reg(SyncReg::Register);
        self.vcpu.sync_regs_mut().regs = registers;
        Ok(())
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
        let segments = self.vcpu.get_sregs().map_err(MachineError::kvm("read system registers"))?;
        let fpu = self.vcpu.get_fpu().map_err(MachineError::kvm("read the floating-point state"))?;
        let mut bytes = segments.fs.base.to_le_bytes().to_vec();
        bytes.extend_from_slice(&fpu.fcw.to_le_bytes());
        bytes.extend_from_slice(&fpu.fsw.to_le_bytes());
        bytes.push(fpu.ftwx);
        bytes.extend_from_slice(&fpu.mxcsr.to_le_bytes());
        // An x87 register has 10 bytes; what lies behind them is anybody's guess.
        fpu.fpr.iter().for_each(|register| bytes.extend_from_slice(&register[..10]));
        fpu.xmm.iter().for_each(|register| bytes.extend_from_slice(register));
        Ok(bytes)
    }
}
