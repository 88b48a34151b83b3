//! How a node comes to own the VM: it wins the next generation (R2, R8, R10, R11, R12, R15), and goes live or goes on alone (R16, R17, R19).

use crate::lab::mutant;

use super::interface::{ArbiterRecord, AskResult, HaltReason, NeedsBackup, Output, ReadResult, TraceEvent};
use super::node::Node;
use super::numbers::{Generation, Incarnation};
use super::role::{Alone, Planned, Role, State};
use super::time::{Instant, Number};

/// What the arbiter is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Purpose {
    /// Generation 1 (R2).
    Bootstrap,
    /// The look just before COMMIT (R15).
    Commit,
    /// The next generation, as a primary whose backup is suspected or as a candidate.
    Takeover,
}

/// The request under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Stage {
    #[default]
    Idle,
    Reading {
        request: u64,
        purpose: Purpose,
    },
    Asking {
        request: u64,
        purpose: Purpose,
        generation: Generation,
    },
}

/// Where this node stands with the arbiter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Arbitration {
    stage: Stage,
    bootstrapping: bool,
    /// A generation that was asked for without a clear answer: the request may have been applied, or may yet be.
    unsettled: Option<Generation>,
    /// The last answer was none.
    pub(super) unreachable: bool,
    retry_at: Instant,
    /// The last answer, as the trace has it.
    pub(super) last: Option<String>,
}

impl Arbitration {
    /// An ask is under way or unsettled: this node may own the next generation without knowing.
    pub(super) fn is_committed(&self) -> bool {
        self.unsettled.is_some() || matches!(self.stage, Stage::Asking { .. })
    }

    /// No request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Generation 1 is being claimed.
    pub(super) fn bootstraps(&self) -> bool {
        self.bootstrapping
    }

    pub(super) fn retry_at(&self) -> Instant {
        self.retry_at
    }

    pub(super) fn numbers(&mut self, own: Incarnation, visit: &mut dyn FnMut(Number, &mut u64)) {
        self.last = None;
        visit(Number::Deadline, &mut self.retry_at.0);
        if let Stage::Reading { request, .. } | Stage::Asking { request, .. } = &mut self.stage {
            visit(Number::Request(own.0), request);
        }
    }

    /// Forgets a read under way; an ask cannot be taken back.
    pub(super) fn withdraw(&mut self) {
        if matches!(self.stage, Stage::Reading { .. }) {
            self.stage = Stage::Idle;
        }
        self.unreachable = false;
    }
}

impl Node {
    pub(super) fn begin_bootstrap(&mut self) {
        if self.role() == Role::Spare && !self.arbitration.bootstrapping {
            self.arbitration.bootstrapping = true;
            self.readiness.begin(self.now);
        }
    }

    /// The devices are there.
    pub(super) fn ask_for_bootstrap(&mut self, outputs: &mut Vec<Output>) {
        self.ask(Purpose::Bootstrap, Generation::FIRST, outputs);
    }

    /// When R10 and the role allow to ask; `None`: not at all.
    pub(super) fn may_ask_at(&self) -> Option<Instant> {
        let (timing, rules) = (&self.config.timing, &self.config.rules);
        match &self.state {
            State::Protected(protection) => protection.suspicion.map(|suspicion| {
                let at = suspicion.since.after(timing.grace);
                match protection.planned {
                    // The backup has the time that it was given.
                    Some(Planned::HandedOver { until }) => at.max(until),
                    _ => at,
                }
            }),
            State::Candidate { drained: false, .. } if rules.drained_before_ask => None,
            State::Candidate { .. } if !self.devices_usable() && rules.devices_before_ask => None,
            State::Candidate { .. } if rules.lease_waited_out => Some(self.hearing.lease.over_at(timing)),
            State::Candidate { .. } => Some(self.now),
            _ => None,
        }
    }

    /// What the arbiter is needed for now.
    fn purpose(&self) -> Option<Purpose> {
        if self.arbitration.bootstrapping {
            // The first request goes out behind the check of the devices.
            self.arbitration.unsettled.map(|_| Purpose::Bootstrap)
        } else if self.wants_commit() {
            Some(Purpose::Commit)
        } else if self.state.suspicion().is_some() && self.has_handed_over() {
            // A look tells it as soon as the backup has won.
            Some(Purpose::Takeover)
        } else {
            self.may_ask().then_some(Purpose::Takeover)
        }
    }

    fn may_ask(&self) -> bool {
        self.may_ask_at().is_some_and(|at| at <= self.now)
    }

    /// Begins the next attempt, when one is due. Everything begins with a read (R8, R11).
    pub(super) fn arbitrate(&mut self, outputs: &mut Vec<Output>) {
        if self.arbitration.stage != Stage::Idle || self.now < self.arbitration.retry_at {
            return;
        }
        if let Some(purpose) = self.purpose() {
            if purpose == Purpose::Takeover && self.role() == Role::Protected && mutant!(GoOnUnasked) {
                return self.alone_as_primary(outputs);
            }
            self.read(purpose, outputs);
        }
    }

    fn read(&mut self, purpose: Purpose, outputs: &mut Vec<Output>) {
        let request = self.request();
        self.arbitration.stage = Stage::Reading { request, purpose };
        outputs.push(Output::ReadArbiter { request });
    }

    fn ask(&mut self, purpose: Purpose, generation: Generation, outputs: &mut Vec<Output>) {
        let request = self.request();
        self.arbitration.stage = Stage::Asking { request, purpose, generation };
        outputs.push(Output::AskArbiter { request, generation });
    }

    fn trace_arbiter(
        &mut self,
        operation: &'static str,
        wanted: Generation,
        outcome: String,
        outputs: &mut Vec<Output>,
    ) {
        self.arbitration.last = Some(format!("{operation}: {outcome}"));
        outputs.push(Output::Trace(TraceEvent::Arbiter { operation, wanted, outcome }));
    }

    pub(super) fn arbiter_read(&mut self, request: u64, result: ReadResult, outputs: &mut Vec<Output>) {
        if self.arbiter_looked_at(request, result, outputs) {
            return;
        }
        let Stage::Reading { request: expected, purpose } = self.arbitration.stage else { return };
        if request != expected {
            return;
        }
        self.arbitration.stage = Stage::Idle;
        let outcome = match result {
            ReadResult::Record(record) => record.generation.to_string(),
            ReadResult::Empty => Generation::NONE.to_string(),
            ReadResult::Unreachable => "unreachable".to_owned(),
        };
        self.trace_arbiter("read", self.generation.next(), outcome, outputs);
        self.arbitration.unreachable = false;
        match (purpose, result) {
            (Purpose::Bootstrap, ReadResult::Empty) => self.ask(Purpose::Bootstrap, Generation::FIRST, outputs),
            (Purpose::Bootstrap, ReadResult::Record(record)) => self.bootstrap_settled(record, outputs),
            (Purpose::Commit, ReadResult::Record(record)) => self.commit_read(record, outputs),
            (Purpose::Takeover, ReadResult::Record(record)) => self.takeover_read(record, outputs),
            // A guest that waits for it is not kept waiting.
            (Purpose::Commit, ReadResult::Unreachable | ReadResult::Empty) if self.state.is_live() => {
                self.arbiter_unreachable(outputs);
                self.close_session("the arbiter is out of reach", outputs);
            }
            // An arbiter that has forgotten the VM cannot be believed: as good as none.
            (_, ReadResult::Unreachable | ReadResult::Empty) => self.arbiter_unreachable(outputs),
        }
    }

    pub(super) fn arbiter_unreachable(&mut self, outputs: &mut Vec<Output>) {
        self.arbitration.unreachable = true;
        self.arbitration.retry_at = self.now.after(self.config.timing.retry);
        if !self.arbitration.is_committed() && !self.has_handed_over() {
            self.give_plan_up("the arbiter is out of reach", outputs);
        }
    }

    fn bootstrap_settled(&mut self, record: ArbiterRecord, outputs: &mut Vec<Output>) {
        self.arbitration.bootstrapping = false;
        let own = record.generation == Generation::FIRST && record.incarnation == self.incarnation;
        if own || !self.config.rules.atomic_bootstrap {
            self.bootstrapped(outputs);
        } else {
            self.halt(HaltReason::AlreadyBootstrapped { generation: record.generation }, outputs);
        }
    }

    fn bootstrapped(&mut self, outputs: &mut Vec<Output>) {
        self.arbitration.bootstrapping = false;
        self.arbitration.unsettled = None;
        self.generation = Generation::FIRST;
        self.change_role(State::Alone(Alone::SeeksBackup(None)), "bootstrap", outputs);
        self.dial_at = self.now;
    }

    /// Whose the generation is that this node belongs to: its own as the primary, its primary's as the backup.
    fn owner(&self) -> Incarnation {
        if self.role().is_primary() { self.incarnation } else { self.state.peer() }
    }

    fn takeover_read(&mut self, record: ArbiterRecord, outputs: &mut Vec<Output>) {
        let next = self.generation.next();
        if record.generation == next && record.incarnation == self.incarnation {
            self.won(next, outputs);
        } else if record.generation == self.generation && record.incarnation != self.owner() {
            self.halt(HaltReason::Usurped { record }, outputs);
        } else if record.generation == self.generation {
            // Suspicion may have been withdrawn while the read was under way.
            if self.may_ask() {
                self.ask(Purpose::Takeover, next, outputs);
            } else {
                self.arbitration.retry_at = self.now.after(self.config.timing.retry);
            }
        } else if record.generation > self.generation {
            if self.config.rules.own_generation {
                self.lost(record.generation, outputs);
            } else {
                self.ask(Purpose::Takeover, record.generation.next(), outputs);
            }
        } else {
            self.arbiter_unreachable(outputs);
        }
    }

    pub(super) fn arbiter_asked(&mut self, request: u64, result: AskResult, outputs: &mut Vec<Output>) {
        let Stage::Asking { request: expected, purpose, generation } = self.arbitration.stage else { return };
        if request != expected {
            return;
        }
        self.arbitration.stage = Stage::Idle;
        let operation = if purpose == Purpose::Bootstrap { "bootstrap" } else { "ask" };
        let outcome = match result {
            AskResult::Won => "won",
            AskResult::Lost => "lost",
            AskResult::Unreachable => "unreachable",
        };
        self.trace_arbiter(operation, generation, outcome.to_owned(), outputs);
        match (purpose, result) {
            (Purpose::Bootstrap, AskResult::Won) => self.bootstrapped(outputs),
            (Purpose::Takeover, AskResult::Won) => self.won(generation, outputs),
            (_, AskResult::Lost | AskResult::Unreachable) if self.config.rules.settle_by_reading => {
                // R11: an earlier request of ours may have been applied, or this one may be, later. Only a read tells.
                self.arbitration.unsettled = Some(generation);
                if result == AskResult::Lost {
                    self.read(purpose, outputs);
                } else {
                    self.arbiter_unreachable(outputs);
                }
            }
            (Purpose::Bootstrap, _) if !self.config.rules.atomic_bootstrap => self.bootstrapped(outputs),
            _ => self.lost(generation, outputs),
        }
    }

    fn won(&mut self, generation: Generation, outputs: &mut Vec<Output>) {
        self.arbitration.unsettled = None;
        self.arbitration.unreachable = false;
        self.generation = generation;
        if self.role() == Role::Protected {
            self.alone_as_primary(outputs);
        } else {
            self.won_as_backup(outputs);
        }
    }

    fn lost(&mut self, generation: Generation, outputs: &mut Vec<Output>) {
        self.arbitration.unsettled = None;
        if !self.config.rules.loser_halts && self.role() == Role::Protected {
            self.change_role(State::Alone(Alone::Live(None)), "lost, and goes on", outputs);
            outputs.push(Output::RunAlone);
            return;
        }
        self.halt(HaltReason::Lost { generation }, outputs);
    }

    /// Won as the backup.
    pub(super) fn won_as_backup(&mut self, outputs: &mut Vec<Output>) {
        let loss = self.state.suspicion().map_or(NeedsBackup::ConnectionLost, |suspicion| suspicion.loss);
        self.need_backup(loss, outputs);
        self.close_session("won the arbiter", outputs);
        self.change_role(State::Won, "won the arbiter", outputs);
        outputs.push(Output::Attach { generation: self.generation });
    }

    pub(super) fn attached(&mut self, outputs: &mut Vec<Output>) {
        if self.role() != Role::Won {
            return;
        }
        outputs.push(Output::Trace(TraceEvent::Attached));
        let until = self.may_write_at();
        self.change_role(State::Alone(Alone::AwaitsOldWrites { until }), "attached", outputs);
        outputs.push(Output::Announce);
        outputs.push(Output::Trace(TraceEvent::Announced));
    }

    /// Takes the next stage of going live when it is due.
    pub(super) fn advance_go_live(&mut self, outputs: &mut Vec<Output>) {
        if let State::Alone(Alone::AwaitsOldWrites { until }) = self.state
            && until <= self.now
        {
            let (from, through) = (self.released.index.next(), self.produced);
            if from <= through && self.config.rules.reissue {
                outputs.push(Output::Reissue { from, through });
                outputs.push(Output::TryRelease);
                if !self.config.rules.reissue_before_run {
                    outputs.push(Output::GoLive);
                }
            } else {
                self.released.index = self.produced;
            }
            self.state = State::Alone(Alone::Reissuing { through });
        }
        if let State::Alone(Alone::Reissuing { through }) = self.state
            && self.released.index >= through
        {
            self.state = State::Alone(Alone::Live(None));
            outputs.push(Output::Trace(TraceEvent::Live));
            outputs.push(Output::GoLive);
        }
    }
}
