//! Puts a node together from its configuration and starts its threads.

use std::collections::{BTreeMap, VecDeque};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use serde_json::json;
use thiserror::Error;

use crate::devices::clock::{self, GuestClock};
use crate::devices::{DeviceError, random};
use crate::image::{Image, ImageError};
use crate::lab::mutant;
use crate::lock::Mutex;
use crate::log::{Header, LogError};
use crate::machine::{Machine, MachineConfig, MachineError};
use crate::protocol::{Config, Incarnation, Input, LogPosition, Node, Timing, TimingError};
use crate::remark::remark;

use super::authentication::{Key, KeyError};
use super::bounded_file::BoundedFile;
use super::carry_out::Announcements;
use super::channel::Channel;
use super::command::Command;
use super::config::{BUILD, NodeConfig};
use super::cpu_control::{CpuControl, Throttle};
use super::emission::{Emission, Emitter, Job};
#[cfg(feature = "lab")]
use super::failpoints;
use super::heartbeat::Heartbeat;
#[cfg(feature = "lab")]
use super::holding;
use super::log_buffer::{ReplayLog, SendLog};
#[cfg(feature = "lab")]
use super::mutants;
use super::outputs::OutputQueue;
use super::poller::{Poller, Source, Teller};
use super::recording::{self, Recording};
use super::runtime::{Effect, Mail, Runtime};
use super::shared::Shared;
use super::status::Snapshot;
use super::thread;
use super::trace::Trace;
use super::transfer::{Prepared, Slot};
#[cfg(feature = "lab")]
use super::virtual_cpu::Rebuild;
use super::virtual_cpu::VirtualCpu;
use super::world::World;

/// So much waits in each queue to or from the node's thread, which itself waits for none. Beyond that a question to the arbiter counts as
/// unanswered, and who tells the node's thread something waits: the guest, the disk's thread, Python. What comes from outside waits with the
/// kernel, which drops datagrams and holds the peer's bytes.
const QUEUED_MAX: usize = 4096;

/// For how much of the time, in thousandths, the urgent threads of a node may come before all others: together for 800 of the 950 at which the kernel
/// stops all such threads of a processor.
const NODE_SHARE: u32 = 600;
const DISK_SHARE: u32 = 200;
/// How often who asks for the status looks whether the node has ended meanwhile.
const END_LOOK: Duration = Duration::from_millis(10);

/// Why a node cannot start.
#[derive(Debug, Error)]
pub enum NodeError {
    /// the configuration is not what this version takes: {0}
    #[error("the configuration is not what this version takes: {0}")]
    Document(#[from] serde_json::Error),
    /// the protocol refuses the configuration: {0}
    #[error("the protocol refuses the configuration: {0}")]
    Protocol(#[from] TimingError),
    /// vm.uuid: {0:?} is not a UUID of 32 hexadecimal digits
    #[error("vm.uuid: {0:?} is not a UUID of 32 hexadecimal digits")]
    Uuid(String),
    /// security.key_file: {0}
    #[error("security.key_file: {0}")]
    Key(#[from] KeyError),
    /// {path}: {source}
    #[error("{path}: {source}")]
    File {
        /// which file or address
        path: String,
        /// why
        source: std::io::Error,
    },
    /// the image: {0}
    #[error("{path}: {source}")]
    Image {
        /// its path
        path: String,
        /// what is wrong with it
        source: ImageError,
    },
    /// the log file of the recording cannot be had
    #[error("record.directory: {path}: {source}")]
    Record {
        /// the file
        path: String,
        /// why
        source: LogError,
    },
    /// the machine: {0}
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// a device cannot be had
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn file(path: impl ToString) -> impl FnOnce(std::io::Error) -> NodeError {
    move |source| NodeError::File { path: path.to_string(), source }
}

/// A node whose threads run.
pub struct RunningNode {
    /// the configuration it runs by
    pub config: NodeConfig,
    /// this process's incarnation (R1)
    pub incarnation: Incarnation,
    /// to the node's thread
    pub mail: Teller<Mail>,
    /// how the node was when it ended
    pub ended: Arc<OnceLock<Snapshot>>,
    /// what Python carries out
    pub effects: Receiver<Effect>,
}

impl RunningNode {
    /// Starts a node as a SPARE.
    ///
    /// # Arguments
    /// `document` is the configuration as JSON.
    ///
    /// # Errors
    /// [`NodeError`]: nothing was started then.
    pub fn start(document: &str) -> Result<RunningNode, NodeError> {
        let config: NodeConfig = serde_json::from_str(document)?;
        #[cfg(feature = "lab")]
        mutants::install(config.test.mutants.clone());
        let key = Key::from_hexadecimal(&config.key)?;
        let (image, image_digest) = read_image(&config)?;
        let world = Arc::new(World::new(&config.vm, &image)?);
        let machine_config = world.machine_config().clone();
        let image = Arc::new(image);
        let build = {
            let (image, machine_config) = (image.clone(), machine_config.clone());
            move || {
                let mut machine = Machine::new(&image, &machine_config)?;
                machine.interrupt_long_computing()?;
                Ok(machine)
            }
        };
        let machine = build()?;
        if let Some(doubt) = machine.doubt() {
            remark(format!("ftvmm node: {doubt}"));
        }
        let mut protocol_config = protocol_config(&config, image_digest, &machine_config)?;
        if !config.vm.mixed_hosts {
            protocol_config.host = machine.host_kind();
        }
        let incarnation = Incarnation(u64::from_le_bytes(random().map_err(file("random numbers"))?).max(1));
        let directory = &config.node.directory;
        let trace_path = directory.join("trace.jsonl");
        let trace = Trace::open(&trace_path, config.node.trace_mib_max << 20, &config.node.name, incarnation)
            .map_err(file(trace_path.display()))?;
        let console_path = directory.join("console.log");
        let console = BoundedFile::open(&console_path, config.node.console_mib_max << 20)
            .map_err(file(console_path.display()))?;
        let listener = TcpListener::bind(config.logging.listen).map_err(file(config.logging.listen))?;
        let heartbeats =
            config.heartbeat.iter().map(|heartbeat| Heartbeat::bind(heartbeat, &key)).collect::<Result<Vec<_>, _>>();
        let heartbeats = heartbeats.map_err(file("heartbeat"))?;

        #[cfg(not(feature = "lab"))]
        let node = Node::new(protocol_config, incarnation);
        #[cfg(feature = "lab")]
        let node = match mutants::remembered(directory.join("remembered")) {
            Some(remembered) => Node::restarted(protocol_config, incarnation, remembered),
            None => Node::new(protocol_config, incarnation),
        };
        let log_bytes = (config.logging.buffer_mib as usize) << 20;
        let shared = Shared {
            send_log: Arc::new(SendLog::new(log_bytes)),
            replay_log: Arc::new(ReplayLog::new(log_bytes)),
            outputs: Arc::new(OutputQueue::default()),
            cpu: Arc::new(CpuControl::new().map_err(file("eventfd"))?),
            world: world.clone(),
            trace: Arc::new(trace),
            constant_digest: Arc::new(machine.constant_digest()),
            slot: Slot::new(machine, build.clone()),
            transfer: Arc::default(),
        };
        shared.trace.write(
            "node-started",
            json!({
                "vm": config.vm.uuid, "pid": std::process::id(), "build": BUILD, "mutants": config.mutants(),
                "timing": config.timing,
            }),
        );

        let recording = start_recording(&config, incarnation, &image, &machine_config, &shared)?;

        #[cfg(feature = "lab")]
        {
            let socket = directory.join("failpoints.sock");
            failpoints::start(&config.test.failpoints, &socket, shared.trace.clone())
                .map_err(file(socket.display()))?;
        }

        let poller = Poller::new().map_err(file("epoll"))?;
        for (index, heartbeat) in heartbeats.iter().enumerate() {
            let source = Source::Heartbeat(index as u8);
            poller.registry().add(heartbeat.as_fd(), source).map_err(file("epoll"))?;
        }
        let logs = (shared.send_log.clone(), shared.replay_log.clone());
        let entries_max = config.logging.entries_per_message.unwrap_or(usize::MAX);
        let channel = Channel::new(key.clone(), logs, entries_max, poller.registry(), listener);
        let channel = channel.map_err(file("the logging channel"))?;
        let (mail, mailbox) = poller.mailbox(QUEUED_MAX);
        let (cpu_inputs, cpu) = poller.mailbox(QUEUED_MAX);
        let (checks, requested_checks) = bounded(1);
        let (effect_events, effects) = bounded(QUEUED_MAX);
        let ended = Arc::new(OnceLock::new());
        let emission = start_disk(&config, &shared, console, mail.clone());
        start_checks(world, requested_checks, mail.clone());
        start_cpu(
            &shared,
            recording,
            cpu_inputs,
            #[cfg(feature = "lab")]
            Box::new(move || Machine::new(&image, &machine_config)),
        );
        #[cfg(feature = "lab")]
        if node.role().is_primary() {
            // R1 switched off: it was the primary, and goes on as one.
            shared.world.check();
            shared.world.attach()?;
            shared.outputs.release();
            shared.cpu.run_alone();
        }
        let runtime = Runtime {
            node,
            shared,
            incarnation,
            poller,
            mailbox,
            cpu,
            channel,
            key,
            peer_name: config.node.peer.clone(),
            next_peer: None,
            peer: config.logging.peer,
            networks: config.heartbeat.iter().map(|heartbeat| heartbeat.network.clone()).collect(),
            mail: mail.clone(),
            receiving: None,
            heartbeats,
            emission,
            announcements: Announcements::default(),
            effects: effect_events,
            checks,
            asked: BTreeMap::new(),
            followed: VecDeque::new(),
            drain: None,
            #[cfg(feature = "lab")]
            holding: holding::Holding::default(),
            lag_sampled_at: clock::now(),
            busy: false,
            ended: ended.clone(),
        };
        thread::urgent("node", NODE_SHARE, move |urgency| runtime.run(urgency));
        Ok(RunningNode { config, incarnation, mail, ended, effects })
    }

    /// How the node is now, or was when it ended.
    pub fn snapshot(&self) -> Snapshot {
        let (to, snapshot) = bounded(1);
        // Where nobody listens any more the node has ended, and has said before how it was.
        let _ = self.mail.tell(Mail::Command(Command::Status(to)));
        loop {
            // It may end, and take its time to let go of a disk, with the question unread.
            match self.ended.get() {
                Some(ended) => return ended.clone(),
                None => {
                    if let Ok(snapshot) = snapshot.recv_timeout(END_LOOK) {
                        return snapshot;
                    }
                }
            }
        }
    }
}

fn read_image(config: &NodeConfig) -> Result<(Image, [u8; 32]), NodeError> {
    let path = config.vm.image.display();
    let bytes = std::fs::read(&config.vm.image).map_err(file(&path))?;
    let image = Image::parse(&bytes).map_err(|source| NodeError::Image { path: path.to_string(), source })?;
    Ok((image, *blake3::hash(&bytes).as_bytes()))
}

fn protocol_config(config: &NodeConfig, image: [u8; 32], machine: &MachineConfig) -> Result<Config, NodeError> {
    let uuid = u128::from_str_radix(&config.vm.uuid, 16).map_err(|_| NodeError::Uuid(config.vm.uuid.clone()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&image);
    hasher.update(&machine.digest().0);
    let mut protocol = Config::new(uuid.to_be_bytes(), *hasher.finalize().as_bytes());
    protocol.timing = Timing::from(config.timing);
    protocol.heartbeat_paths = config.heartbeat.len() as u8;
    // Before the mutants: some break what is refused here.
    protocol.timing.validate()?;
    #[cfg(feature = "lab")]
    mutants::alter_timing(&mut protocol.timing);
    #[cfg(feature = "lab")]
    {
        protocol.rules = mutants::rules();
    }
    Ok(protocol)
}

fn start_recording(
    config: &NodeConfig,
    incarnation: Incarnation,
    image: &Image,
    machine: &MachineConfig,
    shared: &Shared,
) -> Result<Recording, NodeError> {
    let Some(record) = &config.record else { return Ok(Recording::off(shared.trace.clone())) };
    let header = Header::new(&config.vm.image, image.digest(), machine.clone());
    Recording::start(record, incarnation, &header, shared.trace.clone()).map_err(|source| NodeError::Record {
        path: recording::path(&record.directory, incarnation).display().to_string(),
        source,
    })
}

/// Starts the thread that lets out what may take time.
fn start_disk(config: &NodeConfig, shared: &Shared, console: BoundedFile, mail: Teller<Mail>) -> Emission {
    let emitter = Arc::new(Emitter {
        devices: shared.world.attached(),
        console: Mutex::new(console),
        trace: shared.trace.clone(),
        policy: config.output.policy,
        #[cfg(feature = "lab")]
        waiting: Mutex::new(None),
    });
    let (disk, jobs) = bounded::<Job>(1);
    let emission = Emission::new(shared.outputs.clone(), emitter.clone(), disk);
    thread::urgent("disk", DISK_SHARE, move |urgency| {
        emitter.run(&jobs, urgency, |emitted| {
            // The node's thread lives as long as this one.
            let _ = mail.tell(Mail::Emitted(emitted));
        });
    });
    emission
}

/// A check may hang on a dead share: nobody but this thread waits for it, and no write.
fn start_checks(world: Arc<World>, requests: Receiver<u64>, mail: Teller<Mail>) {
    thread::start("checks", move || {
        for request in requests {
            if mail.tell(Mail::Checked(request, world.check())).is_err() {
                return;
            }
        }
    });
}

fn start_cpu(
    shared: &Shared,
    recording: Recording,
    inputs: Teller<Input>,
    #[cfg(feature = "lab")] rebuild: Box<Rebuild>,
) {
    let shared = shared.clone();
    thread::start("guest", move || {
        if shared.cpu.wait_until_runnable().is_none() {
            return;
        }
        match shared.slot.take() {
            Ok(prepared) if prepared.position() != shared.cpu.position() => {
                let (own, wanted) = (prepared.position(), shared.cpu.position());
                let reason = format!("the guest's state is that at position {own}, and {wanted} is wanted");
                let _ = inputs.tell(Input::HostFailed { reason });
            }
            Ok(prepared) => run_cpu(
                &shared,
                prepared,
                recording,
                inputs,
                #[cfg(feature = "lab")]
                rebuild,
            ),
            Err(error) => {
                let _ = inputs.tell(Input::HostFailed { reason: error.to_string() });
            }
        }
    });
}

/// The guest's thread: the guest begins in its initial state, or goes on where it was carried from.
fn run_cpu(
    shared: &Shared,
    prepared: Prepared,
    recording: Recording,
    inputs: Teller<Input>,
    #[cfg(feature = "lab")] rebuild: Box<Rebuild>,
) {
    let Prepared { machine, carried } = prepared;
    let now = clock::boottime_nanoseconds();
    let mut guest_clock = GuestClock::starting_at(now);
    if let Some(carried) = carried.as_ref().filter(|_| !mutant!(ForgetTime)) {
        guest_clock.observe_counter(carried.counter, now);
        carried.wall.into_iter().for_each(|wall| guest_clock.observe_wall(wall, now));
    }
    shared.cpu.runs(machine.kicker());
    let cpu = VirtualCpu {
        machine,
        control: shared.cpu.clone(),
        send_log: shared.send_log.clone(),
        replay_log: shared.replay_log.clone(),
        outputs: shared.outputs.clone(),
        devices: shared.world.attached(),
        trace: shared.trace.clone(),
        recording,
        tell: move |input| {
            // The node's thread lives as long as this one.
            let _ = inputs.tell(input);
        },
        clock: guest_clock,
        throttle: Throttle::default(),
        copier: None,
        flushed: carried.map_or(LogPosition::START, |carried| carried.position()),
        unflushed_since: 0,
        replay_told_at: 0,
        #[cfg(feature = "lab")]
        rebuild,
    };
    cpu.run();
}
