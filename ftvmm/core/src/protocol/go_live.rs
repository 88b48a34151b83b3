//! How a winner goes live: attach, announce, wait out the old primary's writes, re-issue, run (R16, R17, R19).

use super::node::Node;
use super::numbers::OutputIndex;
use super::output::Output;
use super::role::Role;
use super::time::Instant;
use super::trace::TraceEvent;

/// How far a node is with running the guest live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum GoLive {
    /// The guest does not run live here.
    Not,
    /// Attached and announced; no write of the old primary may land after this (R19).
    Waiting {
        /// When the first output may leave.
        until: Instant,
    },
    /// The outputs that may not have left are emitted again.
    Reissuing {
        /// The last of them.
        through: OutputIndex,
    },
    /// The guest runs.
    Live {
        /// `first-output` has been traced.
        first_output_seen: bool,
    },
}

impl GoLive {
    pub(super) fn is_live(self) -> bool {
        matches!(self, GoLive::Live { .. })
    }

    /// Whether outputs may leave at this stage.
    pub(super) fn may_emit(self) -> bool {
        matches!(self, GoLive::Reissuing { .. } | GoLive::Live { .. })
    }

    pub(super) fn waits_until_mut(&mut self) -> Option<&mut Instant> {
        match self {
            GoLive::Waiting { until } => Some(until),
            _ => None,
        }
    }

    pub(super) fn waits_until(self) -> Option<Instant> {
        match self {
            GoLive::Waiting { until } => Some(until),
            _ => None,
        }
    }
}

impl Node {
    /// Won as the backup.
    pub(super) fn won_as_backup(&mut self, outputs: &mut Vec<Output>) {
        self.suspicion = None;
        self.unreleased.clear();
        self.close_session("won the arbiter", outputs);
        self.change_role(Role::Won, "won the arbiter", outputs);
        outputs.push(Output::Attach { generation: self.generation });
    }

    pub(super) fn attached(&mut self, outputs: &mut Vec<Output>) {
        if self.role != Role::Won {
            return;
        }
        outputs.push(Output::Trace(TraceEvent::Attached));
        self.change_role(Role::Alone, "attached", outputs);
        outputs.push(Output::Announce);
        outputs.push(Output::Trace(TraceEvent::Announced));
        self.go_live = GoLive::Waiting { until: self.may_write_at() };
    }

    /// Takes the next stage of going live when it is due.
    pub(super) fn advance_go_live(&mut self, outputs: &mut Vec<Output>) {
        if self.role != Role::Alone {
            return;
        }
        if let GoLive::Waiting { until } = self.go_live
            && until <= self.now
        {
            let (from, through) = (self.released.index.next(), self.produced);
            self.traced_done = self.released.index;
            if from <= through && self.config.rules.reissue {
                self.go_live = GoLive::Reissuing { through };
                outputs.push(Output::Reissue { from, through });
                outputs.push(Output::TryRelease);
                if !self.config.rules.reissue_before_run {
                    outputs.push(Output::GoLive);
                }
            } else {
                self.released.index = self.produced;
                self.traced_done = self.produced;
                self.go_live = GoLive::Reissuing { through };
            }
        }
        if let GoLive::Reissuing { through } = self.go_live
            && self.released.index >= through
        {
            self.go_live = GoLive::Live { first_output_seen: false };
            outputs.push(Output::Trace(TraceEvent::Live));
            outputs.push(Output::GoLive);
        }
    }
}
