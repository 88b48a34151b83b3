//! Failpoints at what the state machine says. The node's thread answers heartbeats and must not be blocked, so what leads on is held
//! instead: effects of a takeover, answers of the arbiter, acknowledgements.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::devices::clock;
use crate::protocol::{Body, Generation, Input, LogPosition, Message, Node, Output, Path, Role, TraceEvent};

use super::failpoints::{self, Action, Gate, Point};

static OUTPUTS_HELD: AtomicBool = AtomicBool::new(false);

/// Whether no output may leave.
pub fn outputs_are_held() -> bool {
    OUTPUTS_HELD.load(Ordering::Acquire)
}

/// What is held.
#[derive(Debug, Default)]
pub struct Holding {
    gates: Vec<Gate>,
    outputs: VecDeque<Output>,
    inputs: VecDeque<Input>,
    /// No message acknowledges more than this; the newest one that would have, as far as it can be taken in later.
    acknowledgements: Option<(Gate, LogPosition, Option<Input>)>,
}

/// Points that a step has come to: at which of its outputs, and what happens there.
pub type Passed = Vec<(usize, Point, u64, Action)>;

impl Holding {
    /// Looks through the outputs of a step for points that are hit.
    pub fn look(&self, outputs: &[Output], role: Role) -> Passed {
        let mut passed = Passed::new();
        for (place, output) in outputs.iter().enumerate() {
            if let Some((point, number)) = point_of(output, role)
                && let Some((id, action)) = failpoints::pass(point, None, number)
            {
                let emits = matches!(point, Point::Won | Point::Attached | Point::Announced | Point::FirstOutput);
                OUTPUTS_HELD.fetch_or(emits && matches!(action, Action::Block | Action::Delay(_)), Ordering::AcqRel);
                passed.push((place, point, id, action));
            }
        }
        passed
    }

    /// The output of this step at `place` is next: what is hit there strikes or closes. Gives the output back unless it is held.
    pub fn let_by(&mut self, passed: &Passed, place: usize, output: Output) -> Option<Output> {
        for (.., id, action) in passed.iter().filter(|(at, ..)| *at == place) {
            self.gates.extend(Gate::of(*id, *action));
        }
        let leads_on = matches!(
            output,
            Output::ReadArbiter { .. }
                | Output::AskArbiter { .. }
                | Output::Attach { .. }
                | Output::Announce
                | Output::Reissue { .. }
                | Output::GoLive
                | Output::StreamEntries { .. }
                | Output::StartGuest
                | Output::StartReplay
                | Output::BeginTransfer { .. }
                | Output::ResumeGuest
        );
        // The answer to COMMIT, and no other message: without it the primary has to do with answers to its heartbeats. And the joiner's word that
        // it has the guest's state.
        let answers = matches!(output, Output::Send { .. })
            && passed
                .iter()
                .any(|(at, point, ..)| *at < place && matches!(point, Point::CommitReceived | Point::StateRestored));
        if (leads_on || answers) && !self.gates.is_empty() {
            self.outputs.push_back(output);
            return None;
        }
        Some(output)
    }

    /// An input is next. Gives it back unless it is held; while acknowledgements are held, without what it acknowledges.
    pub fn let_in(&mut self, input: Input, node: &Node) -> Option<Input> {
        match &input {
            Input::ArbiterAsked { .. } => self.answered(node.generation().next(), input),
            Input::Message { path, bytes } => {
                let (path, message) = (*path, Message::decode(bytes));
                match message {
                    Ok(message) => Some(self.heard(input, path, message, node)),
                    Err(_) => Some(input),
                }
            }
            _ => Some(input),
        }
    }

    /// The arbiter's answer about a generation that was asked for.
    fn answered(&mut self, generation: Generation, input: Input) -> Option<Input> {
        if generation > Generation::FIRST
            && let Some(gate) = failpoints::gate(Point::AfterAsk, None, generation.0)
        {
            self.gates.push(gate);
            self.inputs.push_back(input);
            return None;
        }
        Some(input)
    }

    /// A message of the peer.
    fn heard(&mut self, input: Input, path: Path, message: Message, node: &Node) -> Input {
        let Message { header, body: Body::Answer { stored, replayed, released, lacks } } = message else {
            return input;
        };
        if self.acknowledgements.is_none() && failpoints::awaited(Point::EntryAcknowledged) {
            let known = node.status(clock::now()).acknowledged;
            if stored <= known {
                return input;
            }
            let gate = failpoints::gate(Point::EntryAcknowledged, None, stored.0);
            self.acknowledgements = gate.map(|gate| (gate, known, None));
        }
        let Some((_, known, newest)) = &mut self.acknowledgements else { return input };
        let stored = stored.min(*known);
        let silenced = Message { header, body: Body::Answer { stored, replayed, released, lacks } }.encode();
        let silenced = Input::Message { path, bytes: silenced };
        // One that came by a heartbeat counts for nothing when it comes late, and the next is soon there.
        if matches!(path, Path::Log { .. }) {
            *newest = Some(input);
        }
        silenced
    }

    /// What goes on now, in its order: effects, then inputs.
    pub fn released(&mut self) -> (Vec<Output>, Vec<Input>) {
        self.gates.retain(Gate::is_closed);
        let mut inputs = Vec::new();
        if let Some((_, _, newest)) = self.acknowledgements.take_if(|(gate, ..)| !gate.is_closed()) {
            inputs.extend(newest);
        }
        if !self.gates.is_empty() {
            return (Vec::new(), inputs);
        }
        OUTPUTS_HELD.store(false, Ordering::Release);
        inputs.extend(self.inputs.drain(..));
        (self.outputs.drain(..).collect(), inputs)
    }
}

/// The point that an output of the state machine stands for, and the position, index or generation that it is about.
fn point_of(output: &Output, role: Role) -> Option<(Point, u64)> {
    Some(match output {
        Output::AskArbiter { generation, .. } if *generation > Generation::FIRST => (Point::BeforeAsk, generation.0),
        Output::Trace(event) => match event {
            TraceEvent::Suspect { .. } => (Point::Suspect, 0),
            TraceEvent::Drained { position } => (Point::Drained, position.0),
            TraceEvent::Role { to: Role::Won, generation, .. }
            | TraceEvent::Role { from: Role::Protected, to: Role::Alone, generation, .. } => (Point::Won, generation.0),
            TraceEvent::Attached => (Point::Attached, 0),
            TraceEvent::Announced => (Point::Announced, 0),
            TraceEvent::FirstOutput { index } => (Point::FirstOutput, index.0),
            TraceEvent::TransferBegun => (Point::TransferBegun, 0),
            TraceEvent::GuestStopped { position } => (Point::GuestStopped, position.0),
            TraceEvent::StateRestored { position } if role == Role::Joining => (Point::StateRestored, position.0),
            TraceEvent::Committed { position, .. } if role == Role::Backup => (Point::CommitReceived, position.0),
            TraceEvent::Committed { position, .. } => (Point::CommitSent, position.0),
            _ => return None,
        },
        _ => return None,
    })
}
