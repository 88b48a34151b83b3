//! The thread that runs the guest: replaying a log on the backup, live on the primary, and from one to the other at a
//! go-live without the guest noticing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::devices::clock::{self, GuestClock};
use crate::devices::{self, Devices};
use crate::lab::{failpoint, mutant, rule};
use crate::lock::Mutex;
use crate::log::{End, EndKind, Entry};
use crate::machine::{Answer, HypercallResult, Machine, MachineError, Request, TrapReport};
use crate::protocol::{Input, LogPosition, Share};
use crate::remark::remark;

use super::cpu_control::{CpuControl, Mode, Throttle};
use super::log_buffer::{Next, ReplayLog, SendLog};
#[cfg(feature = "lab")]
use super::mutants;
use super::outputs::{Content, OutputQueue};
use super::recording::Recording;
use super::trace::Trace;
use super::transfer::{Carried, Copier, Order};

/// Builds a guest's initial state anew.
#[cfg(feature = "lab")]
pub type Rebuild = dyn Fn() -> Result<Machine, MachineError> + Send;

/// The guest, and everything that its inputs and outputs pass through.
pub struct VirtualCpu<Tell: Fn(Input)> {
    /// the guest
    pub machine: Machine,
    /// commands
    pub control: Arc<CpuControl>,
    /// the log of what the guest takes live
    pub send_log: Arc<SendLog>,
    /// the log that it replays
    pub replay_log: Arc<ReplayLog>,
    /// outputs on their way out
    pub outputs: Arc<OutputQueue>,
    /// the world; `None` until attached
    pub devices: Arc<Mutex<Option<Arc<Devices>>>>,
    /// evidence
    pub trace: Arc<Trace>,
    /// what the guest is told live
    pub recording: Recording,
    /// tells the node's thread
    pub tell: Tell,
    /// the guest's time
    pub clock: GuestClock,
    /// what the guest waits for where it is slowed
    pub throttle: Throttle,
    /// primary: its memory on the way to a joiner
    pub copier: Option<Copier>,
    /// newest position that the node's thread knows of
    pub flushed: LogPosition,
    /// primary: when the first entry behind that was appended, in nanoseconds of CLOCK_BOOTTIME
    pub unflushed_since: u64,
    /// backup: when the node's thread was last told how far replay is, on the same clock
    pub replay_told_at: u64,
    /// builds the guest's initial state anew, for the mutant `reset-on-go-live`
    #[cfg(feature = "lab")]
    pub rebuild: Box<Rebuild>,
}

/// Why the guest's thread ends; `None` inside stands for "the node stops".
type Ended<T> = Result<T, Option<Input>>;

/// Replay is reported at least so often, in entries, and whenever it has caught up.
const REPLAYED_EVERY: u64 = 64;
/// The log is flushed at least so often, in entries: a guest that says nothing for long is replayed all the same.
const FLUSHED_EVERY: u64 = 64;
/// The same in time, for both: a guest that computes for long between two inputs must not look as if it lagged, nor as if it did not.
const TOLD_EVERY: Duration = Duration::from_millis(10);

impl<Tell: Fn(Input)> VirtualCpu<Tell> {
    /// Runs the guest until it halts, fails or the node stops.
    pub fn run(mut self) {
        let ended = loop {
            if let Err(ended) = self.step() {
                break ended;
            }
        };
        if let Some(event) = ended {
            (self.tell)(event);
        }
    }

    fn step(&mut self) -> Ended<()> {
        // Before the guest is entered and not behind it: what it has said is on its way.
        if let Some(pause) = self.throttle.due() {
            self.control.pause(pause);
        }
        self.control.wait_until_runnable().ok_or(None)?;
        self.copy_some();
        let entered = (self.control.share() != Share::WHOLE).then(Instant::now);
        let left = match self.machine.asked() {
            // It has asked on another host.
            Some(request) => Ok(request.clone()),
            None => self.machine.run(),
        };
        if let Some(entered) = entered {
            self.throttle.ran(entered.elapsed(), self.control.share());
        }
        let request = match left {
            Err(MachineError::Interrupted) => {
                self.remark_starvation();
                return Ok(());
            }
            Err(MachineError::Trap(report)) => {
                // It ends like a guest that halts: what it said before leaves.
                remark(format!("ftvmm node: {report}"));
                return Err(self.halt(TrapReport::EXIT_STATUS, Some(report.to_string())));
            }
            request => request.map_err(failed)?,
        };
        let answer = match request {
            Request::Console { data } => self.output(Content::Console { bytes: data })?,
            Request::NetworkWrite { device, frame } => self.output(Content::Frame { device, bytes: frame })?,
            Request::BlockWrite { device, offset, data } => {
                self.output(Content::Block { device, offset, bytes: data })?
            }
            Request::Halt { exit_status } => return Err(self.halt(exit_status, None)),
            input => match self.input(&input)? {
                Some(answer) => answer,
                None => return Ok(()),
            },
        };
        self.machine.answer(&answer).map_err(failed)
    }

    /// Says that a thread computes while others wait. A backup is quiet: its primary has said so before.
    fn remark_starvation(&mut self) {
        if self.control.mode() == Mode::Replaying {
            return;
        }
        let devices = self.devices.lock().clone();
        let has_frames = || devices.is_some_and(|devices| devices.readable() != 0);
        if let Some(starvation) = self.machine.starvation(has_frames) {
            remark(format!("ftvmm node: {starvation}"));
        }
    }

    fn position(&self) -> LogPosition {
        self.control.position()
    }

    /// Copies a little of the guest's memory, as long as a joiner is to have it.
    fn copy_some(&mut self) {
        let wanted = self.control.copying();
        if self.copier.as_ref().map(Copier::connection) != wanted {
            self.end_copy();
            if let Some(order) = self.control.copy_order() {
                let begun = Copier::begin(order.clone(), &mut self.machine);
                self.copier = Some(begun.unwrap_or_else(|error| self.give_copy_up(order, &error)));
            }
        }
        let Some(copier) = &mut self.copier else { return };
        match copier.copy_some(&mut self.machine) {
            Ok(true) => {
                let (round, pages) = copier.round();
                self.trace.write("transfer", json!({ "state": "round", "round": round, "pages": pages }));
            }
            Ok(false) => {}
            Err(error) => {
                copier.give_up();
                let connection = copier.connection();
                (self.tell)(Input::TransferFailed { connection, reason: error.to_string() });
            }
        }
    }

    /// The guest goes on, whatever keeps its state from being carried.
    fn give_copy_up(&self, order: Order, error: &MachineError) -> Copier {
        (self.tell)(Input::TransferFailed { connection: order.connection, reason: error.to_string() });
        Copier::none(order)
    }

    fn end_copy(&mut self) {
        if self.copier.take().is_some() {
            // If it goes on, it costs a little and nothing else.
            let _ = self.machine.stop_tracking_writes();
        }
    }

    /// R13: the guest waits at an input. What is left of its state goes over, and it goes on when the joiner is its backup or will not be.
    fn stop_for_joiner(&mut self) -> Ended<()> {
        let Some(copier) = self.copier.as_mut().filter(|copier| copier.is_ready()) else { return Ok(()) };
        let (position, connection) = (self.control.position(), copier.connection());
        (self.tell)(Input::GuestStops { connection });
        self.trace.write("transfer", json!({ "state": "stopping", "position": position }));
        self.recording.flush();
        let (counter, wall) = self.clock.look();
        let produced = self.outputs.produced();
        let sent = self.machine.state().and_then(|machine| {
            let carried = Carried { machine, position: position.0, produced: produced.0, counter, wall };
            copier.finish(&mut self.machine, carried, || self.control.copying() != Some(connection))
        });
        if let Err(error) = sent {
            (self.tell)(Input::TransferFailed { connection, reason: error.to_string() });
        }
        if mutant!(ResumeEarly) {
            self.copier = self.control.copy_order().map(Copier::none);
            return Ok(());
        }
        self.control.wait_for_end_of_copy(connection).ok_or(None)?;
        self.end_copy();
        (self.flushed, self.unflushed_since) = (position, clock::boottime_nanoseconds());
        self.trace.write("transfer", json!({ "state": "resumed", "position": position }));
        Ok(())
    }

    fn output(&mut self, content: Content) -> Ended<Answer> {
        let depends_on = self.position();
        let replaying = self.control.mode() == Mode::Replaying;
        if replaying {
            self.trace.write(
                "replayed-output",
                json!({
                    "index": self.outputs.produced().next(), "kind": content.kind(), "depends_on": depends_on,
                    "length": content.bytes().len(), "digest": content.digest(),
                }),
            );
        }
        // A backup's queue is bounded by its primary's; replay must never wait for what only a go-live lets out.
        if !replaying && !self.outputs.wait_for_room() {
            return Err(None);
        }
        if !replaying {
            // Before the output can leave: what a killed node let out is to be had from what it recorded.
            self.flush();
        }
        #[cfg(feature = "lab")]
        let kind = content.kind();
        // Not known before the VM is attached, nor asked for: a replay lets nothing out, and a node alone waits for nobody's R (R23).
        let unit_bytes = match &content {
            Content::Block { device, .. } => self.devices.lock().as_ref().and_then(|open| open.unit_bytes(*device)),
            Content::Frame { .. } | Content::Console { .. } => None,
        };
        let (output, overlaps) =
            self.outputs.produce(self.machine.fingerprint(), depends_on, unit_bytes.unwrap_or(1), content);
        (self.tell)(Input::OutputProduced { output, depends_on, overlaps });
        #[cfg(feature = "lab")]
        if !replaying {
            failpoint!(OutputProduced, output.index.0, kind);
        }
        Ok(Answer::Done)
    }

    fn halt(&mut self, exit_status: i32, trap: Option<String>) -> Option<Input> {
        if self.control.mode() == Mode::Replaying {
            // The primary's guest halted too. Whether anyone saw its last outputs is the primary's to tell; without
            // it, this node goes live first and emits them.
            (self.tell)(Input::GuestHalted { exit_status, trap: trap.clone() });
            match self.drain(self.position().next()) {
                Ok(None) => {}
                Ok(Some(_)) => return diverged(self.position().next(), "the log goes on where the guest halts".into()),
                Err(ended) => return ended,
            }
        } else {
            self.flush();
            // A trap may be this host's alone, and would not come again in a replay: no end is recorded for it.
            if trap.is_none() && self.recording.is_on() {
                let kind = EndKind::Halted { exit_status };
                let (position, fingerprint) = (self.position(), self.machine.fingerprint());
                self.recording.end(&End { kind, position, fingerprint, state_digest: self.machine.state_digest() });
            }
        }
        Some(Input::GuestHalted { exit_status, trap })
    }

    /// Lets the node's thread send what was appended, and the file what was recorded: when an output waits for it, or
    /// the guest has nothing to do.
    fn flush(&mut self) {
        self.recording.flush();
        let through = self.position();
        if through > self.flushed && self.control.mode() == Mode::Logging {
            self.flushed = through;
            self.send_log.flush();
            (self.tell)(Input::EntriesAppended { through });
        }
    }

    /// The answer to an input; `None` when the guest was replaced and has to be run anew.
    fn input(&mut self, request: &Request) -> Ended<Option<Answer>> {
        let replaying = self.control.mode() == Mode::Replaying;
        if replaying && let Some(answer) = self.replay_input(request)? {
            return Ok(Some(answer));
        }
        #[cfg(feature = "lab")]
        if replaying && mutant!(ResetOnGoLive) {
            self.machine = (self.rebuild)().map_err(failed)?;
            return Ok(None);
        }
        self.stop_for_joiner()?;
        let answer = self.live_input(request)?;
        let position = self.position().next();
        let logging = self.control.mode() == Mode::Logging;
        let mut flush_due = position.0.is_multiple_of(FLUSHED_EVERY);
        let mut bytes = Vec::new();
        if logging || self.recording.is_on() {
            let fingerprint = self.machine.fingerprint();
            Entry { position, fingerprint, answer: answer.clone() }.encode(&mut bytes);
            self.recording.append(position, &bytes);
        }
        if logging {
            if !self.send_log.has_room(bytes.len()) {
                // The protocol lets go only of what it knows of: without this it would never make room.
                self.flush();
            }
            let now = clock::boottime_nanoseconds();
            if position == self.flushed.next() {
                self.unflushed_since = now;
            }
            flush_due |= is_due(self.unflushed_since, now);
            if !self.send_log.append(bytes) {
                return Err(None);
            }
        }
        failpoint!(InputAppended, position.0);
        self.control.come_to(position);
        if flush_due {
            self.flush();
        }
        Ok(Some(answer))
    }

    /// The entry at `position`, or `None` when the log ended before it and this node went live.
    fn drain(&self, position: LogPosition) -> Ended<Option<Arc<Vec<u8>>>> {
        loop {
            let replays = self.control.replays();
            match self.next_entry(position) {
                Next::Stopped => return Err(None),
                Next::Entry(bytes) => return Ok(Some(bytes)),
                Next::Drained { closed } => {
                    (self.tell)(Input::Drained { position: closed });
                    if self.control.wait_for_order(Mode::Replaying, replays).ok_or(None)? != Mode::Replaying {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The next entry's answer, or `None` when this node went live at this very request.
    fn replay_input(&mut self, request: &Request) -> Ended<Option<Answer>> {
        let position = self.position().next();
        let Some(bytes) = self.drain(position)? else { return Ok(None) };
        failpoint!(EntryReplayed, position.0);
        #[cfg(feature = "lab")]
        let bytes = mutants::replayed(position, bytes);
        let (entry, _) = Entry::decode(&bytes).map_err(|error| diverged(position, error.to_string()))?;
        let fingerprint = if rule!(diverged_halts) { self.machine.fingerprint() } else { entry.fingerprint };
        entry.check(position, fingerprint, request).map_err(|reason| diverged(position, reason))?;
        let now = clock::boottime_nanoseconds();
        match entry.answer {
            Answer::Counter { value } | Answer::CounterWithAux { value, .. } => self.clock.observe_counter(value, now),
            Answer::Walltime { nanoseconds } => self.clock.observe_wall(nanoseconds, now),
            _ => {}
        }
        self.control.come_to(position);
        let due = position.0.is_multiple_of(REPLAYED_EVERY) || is_due(self.replay_told_at, now);
        if due || position == self.replay_log.newest() {
            self.replay_told_at = now;
            self.replay_log.truncate(position);
            (self.tell)(Input::EntriesReplayed { through: position });
        }
        Ok(Some(entry.answer))
    }

    fn next_entry(&self, position: LogPosition) -> Next {
        let lost = if mutant!(LoseLogTail) { 40 } else { u64::from(mutant!(LoseLastEntry)) };
        if lost > 0
            && let ended @ (Next::Drained { .. } | Next::Stopped) = self.replay_log.wait_for(position.after(lost))
        {
            return ended;
        }
        self.replay_log.wait_for(position)
    }

    fn devices(&self) -> Ended<Arc<Devices>> {
        self.devices
            .lock()
            .clone()
            .ok_or_else(|| Some(Input::HostFailed { reason: "the guest runs live without its devices".into() }))
    }

    fn live_input(&mut self, request: &Request) -> Ended<Answer> {
        Ok(match request {
            Request::Walltime => Answer::Walltime { nanoseconds: self.clock.wall_now() },
            Request::Poll { timeout_nanoseconds } => {
                let devices = self.devices()?;
                let mut ready_set = devices.readable();
                if ready_set == 0 {
                    // Only a guest that has nothing to do is worth a wake-up of the node's thread.
                    self.flush();
                    ready_set = self.wait_for_device(&devices, *timeout_nanoseconds)?;
                }
                Answer::Poll { ready_set }
            }
            Request::NetworkRead { device, capacity } => {
                let devices = self.devices()?;
                let mut frame = devices.receive_frame(*device, *capacity);
                if frame.is_some() && mutant!(LoseFramesIn, every 50 after_go_live) {
                    frame = devices.receive_frame(*device, *capacity);
                }
                #[cfg(feature = "lab")]
                if let Some(bytes) = &mut frame
                    && super::mutants::asks_to_set(bytes)
                    && mutant!(GarbleRequests, every 50 after_go_live)
                {
                    super::mutants::garble(bytes);
                }
                Answer::NetworkRead { frame }
            }
            Request::BlockRead { device, offset, length } => self.read_block(*device, *offset, *length)?,
            Request::Instruction(instruction) => {
                devices::instruction_answer(&mut self.clock, *instruction).map_err(failed)?
            }
            output => return Err(Some(Input::HostFailed { reason: format!("{output:?} is no input") })),
        })
    }

    /// Waits until a device is readable or the time is over; meanwhile it looks at what it is told.
    fn wait_for_device(&mut self, devices: &Devices, timeout_nanoseconds: u64) -> Ended<u64> {
        let until = clock::boottime_nanoseconds().saturating_add(timeout_nanoseconds);
        loop {
            let left = until.saturating_sub(clock::boottime_nanoseconds());
            let control = self.control.clone();
            match devices.poll(left, Some(control.wake_descriptor())) {
                Some(ready_set) => return Ok(ready_set),
                None if !control.was_woken() => return Ok(0),
                None => {
                    self.copy_some();
                    self.stop_for_joiner()?;
                }
            }
        }
    }

    fn read_block(&mut self, device: u8, offset: u64, length: u32) -> Ended<Answer> {
        self.flush();
        if !mutant!(ServeStale) && !self.outputs.wait_for_writes(device, offset, u64::from(length)) {
            return Err(None);
        }
        Ok(match self.devices()?.read_block(device, offset, length) {
            #[cfg(feature = "lab")]
            Ok(mut data) if mutant!(FlipARead, once after_go_live) => {
                data.first_mut().into_iter().for_each(|byte| *byte ^= 1);
                Answer::BlockRead { result: HypercallResult::Ok, data }
            }
            Ok(data) => Answer::BlockRead { result: HypercallResult::Ok, data },
            Err(error) => {
                self.trace
                    .write("disk-error", json!({ "device": device, "offset": offset, "reason": error.to_string() }));
                if rule!(failed_read_left_to_backup) {
                    // What the guest is told the backup is told too, whose disk may be well: the protocol gives the VM
                    // to it, or there is none.
                    let reason = format!("the read at byte {offset} of device {device} failed: {error}");
                    (self.tell)(Input::ReadFailed { reason });
                    let replays = self.control.replays();
                    self.control.wait_for_order(Mode::Logging, replays).ok_or(None)?;
                }
                Answer::BlockRead { result: HypercallResult::Unspecified, data: Vec::new() }
            }
        })
    }
}

/// Whether what was told last at one time, in nanoseconds, is to be told again.
fn is_due(since: u64, now: u64) -> bool {
    now.saturating_sub(since) >= TOLD_EVERY.as_nanos() as u64
}

fn failed(error: impl ToString) -> Option<Input> {
    Some(Input::HostFailed { reason: error.to_string() })
}

fn diverged(position: LogPosition, reason: String) -> Option<Input> {
    Some(Input::Diverged { position, reason })
}
