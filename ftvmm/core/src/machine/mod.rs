//! A virtual machine on KVM: one vCPU at CPL 3 that stops at each hypercall.

mod boot;
mod config;
mod cpuid;
mod emulation;
mod error;
mod exit;
mod host;
mod host_kind;
mod hypercall;
mod kicker;
mod memory;
mod monitor;
mod page_tables;
mod registers;
mod request;
mod snapshot;
mod starvation;
mod vcpu;

pub(crate) use config::check_sectors;
pub use config::{COUNTER_FREQUENCY_HERTZ, DeviceConfig, MTU_BYTES, MachineConfig, SECTOR_BYTES};
pub use cpuid::{CpuidLeaf, CpuidTable, Feature};
pub use error::{MachineError, TrapReport};
pub use host::{HostReport, HostTraits, examine_host};
pub use host_kind::HostKind;
pub use kicker::{Kicker, leave_guest_from_signal_handler};
pub use request::{
    Answer, BLOCK_TRANSFER_BYTES_MAX, CONSOLE_BYTES_MAX, ETHERNET_HEADER_BYTES, HypercallResult, Instruction, Request,
};
pub use snapshot::{MachineState, Page, PageSet, StateDigest};
pub use starvation::Starvation;
pub use vcpu::VcpuSetup;

use std::collections::{BTreeMap, HashMap};

use crate::determinism::{self, Found, HostTrait, Site};
use crate::image::{Image, Properties};
use crate::log::{Chain, Fingerprint};
use boot::BOOT_INFO_ADDRESS;
use hypercall::Place;
use memory::{GuestMemory, PAGE_BYTES};
use starvation::{Watch, Watchdog, processor_time};
use vcpu::{Start, Vcpu};

/// A VM: memory and one vCPU. Owned and run by one thread at a time.
pub struct Machine {
    // Before the memory that it runs on, so that it is dropped first.
    vcpu: Vcpu,
    memory: GuestMemory,
    sites: HashMap<u64, Site>,
    depends: BTreeMap<HostTrait, Found>,
    /// How many instructions were rewritten of which nobody says that they are code.
    doubtful: usize,
    devices: Vec<Option<Properties>>,
    cpuid: CpuidTable,
    traits: HostTraits,
    chain: Chain,
    /// Where the guest goes on, the same on every host whatever its KVM says.
    rip: u64,
    state: State,
    /// Its guest has been entered: what is in its memory nobody knows without a look.
    has_run: bool,
    watch: Option<Watch>,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
enum State {
    Ready,
    Asked(Request, Place),
    Stopped,
}

impl Machine {
    /// Builds the VM up to its first instruction.
    ///
    /// # Errors
    /// Where the configuration does not fit the image, the image cannot be made deterministic, or the host has no KVM
    /// that can run it.
    pub fn new(image: &Image, config: &MachineConfig) -> Result<Machine, MachineError> {
        let devices = boot::attach(image, config)?;
        let rewritten = determinism::rewrite(image)?;
        let memory = boot::build_memory(image, config, &devices, &rewritten)?;
        let kvm = host::open_kvm()?;
        host::check_processor(&config.cpuid, rewritten.sets_fs_base())?;
        let traits = HostTraits::get(&kvm)?;
        let start = Start {
            rip: image.entry,
            rsp: config.memory_bytes - 8,
            rdi: BOOT_INFO_ADDRESS,
            sets_fs_base: rewritten.sets_fs_base(),
        };
        let vcpu = Vcpu::new(&kvm, &memory, start, traits.setup, &config.cpuid)?;
        let origin = [image.digest().0, config.digest().0].concat();
        Ok(Machine {
            vcpu,
            memory,
            sites: rewritten.sites,
            depends: rewritten.depends,
            doubtful: rewritten.doubtful.len(),
            devices,
            cpuid: config.cpuid.clone(),
            traits,
            chain: Chain::new(Fingerprint::of(&origin)),
            rip: start.rip,
            state: State::Ready,
            has_run: false,
            watch: Watch::of(image),
            watchdog: None,
        })
    }

    /// Enters the guest until it asks for something, and chains the request into the fingerprint.
    ///
    /// # Errors
    /// [`MachineError::Interrupted`] after a kick or a signal: call again to go on. [`MachineError::Trap`] where the
    /// guest did what it may not: it is over, on every replica at the same point.
    pub fn run(&mut self) -> Result<Request, MachineError> {
        match self.state {
            State::Ready => self.has_run = true,
            State::Asked(..) => return Err(MachineError::NotRunnable { reason: "its last request is not answered" }),
            State::Stopped => return Err(MachineError::NotRunnable { reason: "it has come to its end" }),
        }
        loop {
            if let Some((request, place)) = self.run_to_exit()? {
                self.state = match request {
                    Request::Halt { .. } => State::Stopped,
                    _ => State::Asked(request.clone(), place),
                };
                return Ok(request);
            }
        }
    }

    /// Gives the guest the answer to its last request, and chains it.
    ///
    /// # Errors
    /// [`MachineError::Answer`] where the request does not take this answer; the guest still waits then.
    pub fn answer(&mut self, answer: &Answer) -> Result<(), MachineError> {
        let State::Asked(request, place) = std::mem::replace(&mut self.state, State::Ready) else {
            return Err(MachineError::answer(None, answer));
        };
        let written = request.takes(answer)
            && match request {
                Request::Instruction(instruction) => {
                    registers::write_answer(self.vcpu.registers_mut(), instruction, answer)
                }
                _ => hypercall::write_answer(&mut self.memory, &request, place, answer),
            };
        if !written {
            let error = MachineError::answer(Some(&request), answer);
            self.state = State::Asked(request, place);
            return Err(error);
        }
        let mut bytes = Vec::new();
        crate::log::encode_answer(answer, &mut bytes);
        self.chain.link(&[b"answer", &bytes]);
        Ok(())
    }

    /// The chain so far.
    pub fn fingerprint(&self) -> Fingerprint {
        self.chain.head()
    }

    /// A digest of all memory and registers; slow. Equal on every host for equal histories, between two exits.
    pub fn state_digest(&mut self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        for (index, page) in self.memory.all().chunks_exact(PAGE_BYTES as usize).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                hasher.update(&(index as u64).to_le_bytes());
                hasher.update(page);
            }
        }
        hasher.update(&registers::canonical(self.vcpu.registers(), self.rip));
        match self.vcpu.extended_state() {
            Ok(bytes) => hasher.update(&bytes),
            // A digest that equals no other one: the replica is then stopped, which is safe.
            Err(_) => hasher.update(format!("unreadable, process {}", std::process::id()).as_bytes()),
        };
        Fingerprint::from_hash(hasher.finalize())
    }

    /// From now on, a packed program that does not leave the guest for long is interrupted, for [`Machine::starvation`] to
    /// look at. Neither the guest nor its log knows of it.
    ///
    /// # Errors
    /// Where the host has no thread for it.
    pub fn interrupt_long_computing(&mut self) -> Result<(), MachineError> {
        if self.watch.is_some() {
            let no_thread = |error| MachineError::Host { reason: format!("no thread for its watchdog: {error}") };
            self.watchdog = Some(Watchdog::start(self.vcpu.kicker()).map_err(no_thread)?);
        }
        Ok(())
    }

    /// After [`MachineError::Interrupted`]: the thread of a packed program that computes while others wait, each time that
    /// this is worth a remark. `has_frames` says whether frames wait for the guest.
    pub fn starvation(&mut self, has_frames: impl FnOnce() -> bool) -> Option<Starvation> {
        let rip = self.vcpu.registers().rip;
        self.watch.as_mut()?.look(&self.memory, rip, processor_time(), has_frames)
    }

    /// What to tell people of an image of which something was rewritten that may be no code.
    pub fn doubt(&self) -> Option<String> {
        (self.doubtful > 0).then(|| {
            let count = self.doubtful;
            format!("of what was rewritten, {count} may be data: no function of known length holds it (`ftvmm verify`)")
        })
    }

    /// This host, as far as the other one of a pair has to be alike: the guest's results depend on that.
    ///
    /// The error pointers of the x87 are not among it: nobody reads what the guest stores of them.
    pub fn host_kind(&self) -> HostKind {
        HostKind::of_this_host().restricted_to(|host| self.depends.contains_key(&host))
    }

    /// In what this host differs from that of a recording, in words, as far as anything in the guest's memory depends on
    /// it; `None`: in nothing.
    pub fn other_host(&self, recorded: HostKind) -> Option<String> {
        let depends = |host: HostTrait| self.depends.contains_key(&host);
        // The model decides on the error pointers, too.
        let is_compared =
            |host: HostTrait| depends(host) || (host == HostTrait::Model && depends(HostTrait::ErrorPointers));
        let (recorded, own) =
            (recorded.restricted_to(is_compared), HostKind::of_this_host().restricted_to(is_compared));
        (recorded != own)
            .then(|| format!("the guest depends on its host, which was {recorded}, and is {own}: see `ftvmm verify`"))
    }

    /// A handle by which another thread interrupts `run`.
    pub fn kicker(&self) -> Kicker {
        self.vcpu.kicker()
    }
}
