//! What the operator wants of a pair (R21): that its primary lets the backup go, or hands the VM over to it.
//!
//! Letting go takes the steps of any suspicion. A hand-over takes those of a takeover but one: nobody waits for the lease and for late writes,
//! since the primary says that nothing more leaves it, and says so when nothing is on its way out.

use crate::log::LogPosition;

use super::interface::{NeedsBackup, Output, Path, TraceEvent};
use super::node::Node;
use super::role::{Planned, Role, State, Suspicion};
use super::wire::{Body, Message, OutputMark};

impl Node {
    /// Whether this is a primary whose backup is well, and nothing is planned for the two.
    pub fn is_well_protected(&self) -> bool {
        self.state.protection().is_some_and(|protection| protection.suspicion.is_none() && protection.planned.is_none())
            && self.role() == Role::Protected
    }

    /// The primary is to go on without its backup.
    pub(super) fn let_backup_go(&mut self) {
        self.plan(Planned::LettingGo);
    }

    /// The backup is to own the VM.
    pub(super) fn hand_over(&mut self) {
        self.plan(Planned::HandingOver { until: self.now.after(self.config.timing.acknowledge) });
    }

    fn plan(&mut self, planned: Planned) {
        if self.is_well_protected()
            && let Some(protection) = self.state.protection_mut()
        {
            protection.planned = Some(planned);
        }
    }

    /// It does not come to what the operator wants: primary and backup are what they were before.
    pub(super) fn give_plan_up(&mut self, reason: &str, outputs: &mut Vec<Output>) {
        if let Some(protection) = self.state.protection_mut()
            && protection.planned.take().is_some()
        {
            outputs.push(Output::Trace(TraceEvent::PlanGivenUp { reason: reason.to_owned() }));
        }
    }

    /// The guest waits. Once all that it has said has left, and the backup has replayed all that it was told, the backup is told.
    pub(super) fn advance_hand_over(&mut self, outputs: &mut Vec<Output>) {
        let State::Protected(protection) = &self.state else { return };
        let Some(Planned::HandingOver { until }) = protection.planned else { return };
        let appended = self.log.appended;
        let all_replayed = self.log.acknowledged >= appended && self.log.replayed >= appended;
        let all_left = self.released.index >= self.produced || !self.config.rules.handed_over_completed;
        if protection.suspicion.is_some() {
            self.give_plan_up("the backup is suspected", outputs);
        } else if self.readiness.heard != 0 {
            self.give_plan_up("the backup could not take the VM over", outputs);
        } else if all_replayed && all_left {
            let until = self.now.after(self.config.timing.acknowledge);
            if let Some(protection) = self.state.protection_mut() {
                protection.planned = Some(Planned::HandedOver { until });
            }
            let released = self.released_as_said();
            outputs.push(Output::Trace(TraceEvent::HandedOver { position: appended }));
            self.send_on_log(Body::HandOver { position: appended, released }, outputs);
        } else if until <= self.now {
            self.give_plan_up("the guest's outputs do not leave, or the backup does not replay, in time", outputs);
        }
    }

    /// Whether this primary has said that nothing more leaves it.
    pub(super) fn has_handed_over(&self) -> bool {
        let planned = self.state.protection().and_then(|protection| protection.planned);
        matches!(planned, Some(Planned::HandedOver { .. }))
    }

    /// Backup: nothing leaves the primary any more, nor is on its way. One that cannot take the VM says nothing, and the primary goes on.
    pub(super) fn handed_over(
        &mut self,
        path: Path,
        message: &Message,
        position: LogPosition,
        released: OutputMark,
        outputs: &mut Vec<Output>,
    ) {
        if self.role() != Role::Backup || !matches!(path, Path::Log { .. }) || position > self.log.stored {
            return;
        }
        self.hearing.hear(path, &message.header, self.now);
        if !self.hear_released(released, outputs) {
            return;
        }
        let suspicion =
            Suspicion { since: self.now, reason: "the primary hands the VM over", loss: NeedsBackup::Operator };
        outputs.push(Output::Trace(TraceEvent::Suspect { reason: suspicion.reason.to_owned() }));
        self.become_candidate(suspicion, outputs);
        self.hearing.lease.nothing_to_wait_for();
    }

    /// For `ftvmm status`: what the operator wants of this pair, and has not got.
    pub(super) fn planned(&self) -> Option<&'static str> {
        Some(match self.state.protection()?.planned? {
            Planned::LettingGo => "letting-go",
            Planned::HandingOver { .. } => "handing-over",
            Planned::HandedOver { .. } => "handed-over",
        })
    }
}
