//! Carries out what the state machine says.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::devices::clock;
use crate::lab::mutant;
#[cfg(feature = "lab")]
use crate::lab::rule;
use crate::machine::StateDigest;
#[cfg(feature = "lab")]
use crate::protocol::Role;
use crate::protocol::{AskResult, Generation, Input, Instant, Output, Path, TraceEvent};

use super::command::Command;
#[cfg(feature = "lab")]
use super::mutants;
use super::runtime::{Effect, Mail, Runtime};
use super::trace_event;
use super::transfer::{self, Order, Sending};

/// So many frames' worth of copied memory waits for the thread that sends it: 4 MiB.
const CHUNKS_MAX: usize = 16;

/// When announcements are made, in milliseconds after the go-live: a late frame of the old host flips switch tables.
const ANNOUNCEMENTS_MS: [u64; 8] = [0, 10, 50, 150, 400, 1000, 2000, 3000];

/// When this node tells the network where the VM is.
#[derive(Debug, Default)]
pub struct Announcements(VecDeque<Instant>);

impl Announcements {
    fn begin(&mut self) {
        let now = clock::now();
        self.0 = ANNOUNCEMENTS_MS.map(|at| now.after(Duration::from_millis(at))).into();
    }

    /// When the next one is due.
    pub fn due_at(&self) -> Option<Instant> {
        self.0.front().copied()
    }

    /// Whether one is due; it is over then.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|at| *at > now);
        self.0.len() < before
    }
}

impl Runtime {
    pub(super) fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { path, bytes } => self.send(path, bytes),
            Output::Dial => {
                if !self.channel.dial(self.peer) {
                    self.followed.push_back(Input::DialFailed);
                }
            }
            Output::CloseSession { connection } => {
                if self.channel.close(connection) {
                    self.followed.push_back(Input::SessionClosed { connection, reason: "closed here".to_owned() });
                }
            }
            Output::StreamEntries { connection, from } => {
                self.channel.stream_entries(connection, from);
                self.write();
            }
            Output::ReadArbiter { request } => self.ask_python(request, Effect::ReadArbiter(request)),
            Output::CheckArbiter { request } => self.ask_python(request, Effect::CheckArbiter(request)),
            Output::AskArbiter { request, generation } => self.ask(request, generation),
            Output::StartGuest => self.start_guest(),
            Output::BeginTransfer { connection } => self.begin_transfer(connection),
            Output::EndTransfer => self.shared.cpu.end_copy(),
            Output::ResumeGuest => {
                // Before the guest can append: nobody wants what it was told before.
                self.shared.send_log.restart_at(self.shared.cpu.position());
                self.shared.cpu.resume_logging();
            }
            Output::BeginWhereCarried => self.begin_where_carried(),
            Output::DiscardState => {
                self.end_receiving();
                self.shared.slot.discard();
                self.begin_where_carried();
            }
            Output::StartReplay => self.shared.cpu.replay(),
            Output::CloseLog { position } => {
                if mutant!(AnnounceEarly) && self.shared.world.attach().is_ok() {
                    self.shared.world.announce();
                    self.shared.world.detach();
                }
                self.shared.replay_log.close(position);
            }
            Output::ReopenLog { .. } => {
                self.shared.replay_log.reopen();
                self.shared.cpu.replay();
            }
            Output::CheckDevices { request } => {
                // One at a time, and the thread lives as long as this one.
                let _ = self.checks.try_send(request);
            }
            Output::Attach { .. } => self.attach(),
            Output::Announce if mutant!(AnnounceNothing) => {}
            Output::Announce => self.announcements.begin(),
            Output::Reissue { from, through } => self.shared.outputs.reissue(from, through),
            Output::GoLive => self.go_live(),
            Output::RunAlone => {
                self.run_alone();
                self.look_for_next_peer();
            }
            // All that may leave does at the end of the turn.
            Output::TryRelease => {}
            Output::TruncateLog { through } => self.shared.send_log.truncate(through),
            Output::ForgetOutputs { through } => self.shared.outputs.forget(through),
            Output::ThrottleGuest { share } if !mutant!(NeverSlowed) => self.shared.cpu.throttle(share),
            Output::ThrottleGuest { .. } => {}
            Output::DrainSockets { request } => self.drain = Some(request),
            Output::Halt { reason } => self.exit(3, format!("halted: {reason}")),
            Output::Stop { exit_status } => self.exit(exit_status, String::new()),
            Output::Trace(event) => {
                if matches!(event, TraceEvent::PlanGivenUp { .. }) {
                    self.next_peer = None;
                }
                self.trace(event);
            }
        }
    }

    fn trace(&self, event: TraceEvent) {
        #[cfg(feature = "lab")]
        if let TraceEvent::Role { from, to, generation, reason } = &event {
            mutants::remember(*to, *generation);
            if mutant!(HaltLate) && *from == Role::Protected && *to == Role::Alone && reason.starts_with("lost") {
                mutants::die_after(Duration::from_millis(50));
            }
        }
        #[cfg(feature = "lab")]
        if matches!(event, TraceEvent::HandedOver { .. }) && !rule!(handed_over_silent) {
            let world = self.shared.world.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(5));
                world.announce();
            });
        }
        trace_event::write(&self.shared.trace, event, self.node.released());
    }

    fn send(&mut self, path: Path, bytes: Vec<u8>) {
        match path {
            Path::Log { connection } => {
                self.channel.send(connection, &bytes);
                self.write();
            }
            Path::Heartbeat { network } => {
                if let Some(heartbeat) = self.heartbeats.get(usize::from(network)) {
                    heartbeat.send(bytes);
                }
            }
        }
    }

    /// Has the arbiter asked. Where that much is waiting to be asked already, the arbiter is out of reach.
    fn ask_python(&mut self, request: u64, effect: Effect) {
        if self.effects.try_send(effect).is_err() {
            let unanswered = self.command(Command::Arbiter { request, record: None });
            self.followed.extend(unanswered);
        }
    }

    fn ask(&mut self, request: u64, generation: Generation) {
        if mutant!(SkipArbiter) && generation > Generation::FIRST {
            self.followed.push_back(Input::ArbiterAsked { request, result: AskResult::Won });
            return;
        }
        self.asked.insert(request, generation);
        self.ask_python(request, Effect::AskArbiter(request, generation));
    }

    fn start_guest(&mut self) {
        match self.shared.world.attach() {
            Ok(()) => {
                self.shared.outputs.release();
                self.shared.cpu.run_logging();
            }
            Err(error) => self.exit(2, error.to_string()),
        }
    }

    /// Has the guest's memory copied, and sent to the joiner.
    fn begin_transfer(&mut self, connection: u64) {
        let Some(header) = self.node.stamp_transfer(connection) else { return };
        let (to, chunks) = bounded(CHUNKS_MAX);
        let (mail, cpu, progress) = (self.mail.clone(), self.shared.cpu.clone(), self.shared.transfer.clone());
        let digest = StateDigest::clone(&self.shared.constant_digest);
        let (peer, key) = (self.peer, self.key.clone());
        transfer::send(Sending { peer, key, header, connection, digest, chunks, cpu }, move |input| {
            // The node may have ended meanwhile.
            let _ = mail.tell(Mail::Transfer(input));
        });
        self.shared.cpu.copy(Order { connection, to, progress });
    }

    fn attach(&mut self) {
        if mutant!(SlowGoLive) {
            std::thread::sleep(Duration::from_secs(1));
        }
        match self.shared.world.attach() {
            Ok(()) => self.followed.push_back(Input::Attached),
            Err(error) => self.exit(3, format!("halted: the VM's devices cannot be attached: {error}")),
        }
    }

    fn go_live(&self) {
        #[cfg(feature = "lab")]
        mutants::note_go_live();
        #[cfg(feature = "lab")]
        if mutant!(DieAfterGoLive) {
            mutants::die_after(Duration::from_secs(2));
        }
        #[cfg(feature = "lab")]
        if mutant!(LoseLogTail) || mutant!(LoseLastEntry) {
            self.shared.outputs.forget_nothing();
        }
        #[cfg(feature = "lab")]
        if !rule!(reissue) {
            // What may not have left is lost here; left in the queue it would hold up all that follows.
            self.shared.outputs.forget(self.shared.outputs.produced());
        }
        self.shared.outputs.release();
        // Nobody sends or replays what is left of the log.
        self.run_alone();
    }

    fn run_alone(&self) {
        self.shared.cpu.run_alone();
        let position = self.shared.cpu.position();
        self.shared.send_log.restart_at(position);
        self.shared.replay_log.restart_at(position);
    }

    pub(super) fn exit(&mut self, status: i32, reason: String) {
        // Only the first end counts.
        let _ = self.ended.set(self.snapshot());
        self.shared.outputs.stop();
        self.shared.cpu.stop();
        self.shared.send_log.stop();
        self.shared.replay_log.stop();
        // First, so that the process ends even where letting go of a disk hangs on a dead share.
        if self.effects.try_send(Effect::Exit(status, reason)).is_err() {
            // Python does not listen any more.
            std::process::exit(status);
        }
        self.channel.shut_down();
        self.shared.world.detach();
    }
}
