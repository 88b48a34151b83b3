//! Output commit: when an output may leave, and when it has left (R5).

use std::time::Duration;

use crate::log::LogPosition;

use super::interface::{HaltReason, Output, OutputResult, Status, TraceEvent};
use super::node::Node;
use super::numbers::OutputIndex;
use super::role::{Role, State};
use super::time::Instant;
use super::wire::{Body, OutputMark};

impl Node {
    /// Until when this output may leave, not including that moment; `None`: not now (R5). Asked right before the system call, with a fresh
    /// clock reading, or handed on to whoever looks at the clock there. Only the output after the last completed one may; so emit, report
    /// `OutputDone`, then ask for the next. One of which `OutputProduced` has not told waits for that: what is on its way out is known here
    /// (R21). A write that `overlaps` an older one would be undone for a while if the backup re-issued that (R23).
    pub fn released_until(
        &self,
        output_index: OutputIndex,
        depends_on: LogPosition,
        overlaps: OutputIndex,
        now: Instant,
    ) -> Option<Instant> {
        let rules = &self.config.rules;
        let released = self.released.index;
        if output_index > self.produced
            || output_index <= released
            || (rules.output_order && output_index != released.next())
        {
            return None;
        }
        let acknowledged = self.log.acknowledged >= depends_on || !rules.output_acknowledged;
        let follows = match &self.state {
            State::Alone(_) => true,
            State::Protected(protection) => acknowledged && overlaps <= protection.confirmed,
            _ => false,
        };
        self.may_speak_until().filter(|until| follows && now < *until)
    }

    /// An output that waits for its acknowledgement is looked at when that comes, and not before.
    pub(super) fn output_produced(
        &mut self,
        output: OutputMark,
        depends_on: LogPosition,
        overlaps: OutputIndex,
        outputs: &mut Vec<Output>,
    ) {
        self.produced = self.produced.max(output.index);
        let acknowledged = self.log.acknowledged >= depends_on || !self.config.rules.output_acknowledged;
        // A look more than is needed, where a mutant may let it go.
        let acknowledged = acknowledged || cfg!(feature = "lab");
        if let Some(following) = self.state.following_mut() {
            following.unreleased.push_back((depends_on, output));
            self.compare_released(outputs);
            return;
        }
        if let Some(protection) = self.state.protection_mut()
            && overlaps > protection.confirmed
        {
            protection.overlapping.push_back((output.index, overlaps));
        }
        if self.role() == Role::Alone || (self.role() == Role::Protected && acknowledged) {
            outputs.push(Output::TryRelease);
        }
    }

    pub(super) fn output_done(&mut self, output: OutputMark, result: OutputResult, outputs: &mut Vec<Output>) {
        let index = output.index;
        if !self.role().is_primary() || index <= self.released.index {
            return;
        }
        let failed = match result {
            OutputResult::Failed => Some(HaltReason::OutputFailed { index }),
            OutputResult::Fenced => Some(HaltReason::Fenced { index }),
            OutputResult::Refused if self.role() == Role::Protected => Some(HaltReason::FrameRefused { index }),
            OutputResult::Refused | OutputResult::Completed => None,
        };
        if let Some(reason) = failed.filter(|_| self.config.rules.output_completed) {
            self.halt(reason, outputs);
            return;
        }
        self.frames_lost += u64::from(result == OutputResult::Refused);
        let first = self.released.index.next();
        self.released = output;
        outputs.push(Output::Trace(TraceEvent::OutputDone { through: index }));
        if self.state.is_live() && !std::mem::replace(&mut self.first_output_traced, true) {
            outputs.push(Output::Trace(TraceEvent::FirstOutput { index: first }));
        }
        if self.role() == Role::Alone {
            outputs.push(Output::ForgetOutputs { through: self.released.index });
        }
        if self.released.index < self.produced {
            outputs.push(Output::TryRelease);
        }
    }

    /// The backup says up to which output it will re-issue none (R23).
    pub(super) fn released_confirmed(&mut self, released: OutputIndex, outputs: &mut Vec<Output>) {
        let confirmed = released.min(self.released.index);
        if let Some(protection) = self.state.protection_mut()
            && confirmed > protection.confirmed
        {
            protection.confirmed = confirmed;
            outputs.push(Output::ForgetOutputs { through: confirmed });
        }
    }

    /// Where the next output waits for nothing but the backup's word on R, R is told at once.
    pub(super) fn tell_released(&mut self, outputs: &mut Vec<Output>) {
        let State::Protected(protection) = &mut self.state else { return };
        let (released, confirmed) = (self.released.index, protection.confirmed);
        let waiting = &mut protection.overlapping;
        while waiting.front().is_some_and(|(index, overlaps)| *index <= released || *overlaps <= confirmed) {
            waiting.pop_front();
        }
        let waits = waiting.front().is_some_and(|(index, _)| *index == released.next());
        if waits && protection.is_connected() && protection.told < released {
            protection.told = released;
            self.send_on_log(Body::Heartbeat { released: self.released_as_said() }, outputs);
        }
    }

    /// A snapshot for `ftvmm status`.
    pub fn status(&self, now: Instant) -> Status {
        let mut heard = self.heard_ages(now);
        let heard_log = heard.remove(0);
        Status {
            role: self.role(),
            generation: self.generation,
            incarnation: self.incarnation,
            appended: self.log.appended,
            stored: self.log.stored,
            acknowledged: self.log.acknowledged,
            replayed: self.log.replayed,
            produced: self.produced,
            released: self.released.index,
            frames_lost: self.frames_lost,
            session: self.state.session().map_or(0, |session| session.number),
            heard_log,
            heard_heartbeat: heard,
            suspicion: self.state.suspicion().map(|suspicion| suspicion.reason.to_owned()),
            joining: self.joining(),
            needs_backup: self.needs_backup,
            planned: self.planned(),
            not_protected: self.not_protected(),
            arbiter_last: self.arbitration.last.clone(),
            may_speak: self.may_speak_until().is_some_and(|until| now < until),
            lag: self.state.protection().map_or(Duration::ZERO, |protection| protection.lag.age(now)),
            share: self.share(),
            halt_reason: match &self.state {
                State::Halted { reason } => reason.clone(),
                _ => None,
            },
        }
    }
}
