//! Re-protection: the state of a guest that runs goes to a joiner, which becomes its backup (R13, R14, R15).
//!
//! The copy entitles nobody and can be given up at any time, by either side: the guest then goes on alone, whatever it waits for. Only COMMIT, sent by a
//! primary that holds its outputs by then, makes a joiner a backup.

use super::interface::{Output, Path, TraceEvent};
use super::node::Node;
use super::role::{Alone, GuestState, Joiner, Session, State, Transfer};
use super::wire::{Body, Message};

impl Node {
    /// The VM is to have a backup again.
    pub(super) fn look_for_backup(&mut self) {
        if self.runs_alone() && !std::mem::replace(&mut self.wants_backup, true) {
            self.dial_at = self.now;
        }
    }

    /// Whether this node runs the guest, and nobody could take it over.
    pub fn runs_alone(&self) -> bool {
        matches!(self.state, State::Alone(Alone::Live(_)))
    }

    /// The joiner has said welcome. One whose primary's guest has not started has its state already.
    pub(super) fn begin_transfer(&mut self, outputs: &mut Vec<Output>) {
        let State::Alone(Alone::Live(Some(joiner))) = &mut self.state else { return };
        joiner.transfer = Some(Transfer::default());
        joiner.session.handshake_until = Some(self.now.after(self.config.timing.acknowledge));
        outputs.push(Output::Trace(TraceEvent::TransferBegun));
        outputs.push(Output::BeginTransfer { connection: joiner.session.connection });
    }

    /// The header of the connection on which the guest's state goes to the joiner of this session; `None`: nobody joins there any more.
    pub fn stamp_transfer(&mut self, connection: u64) -> Option<Vec<u8>> {
        self.transfer_on(connection)?;
        let header = self.header(self.now);
        Some(Message { header, body: Body::Transfer }.encode())
    }

    /// Joiner: the log connection to which a state under this header belongs; `None`: it is none that is waited for.
    pub fn accepts_transfer(&self, header: &[u8]) -> Option<u64> {
        let State::Joining { session, restored: None, .. } = &self.state else { return None };
        let message = Message::decode(header).ok()?;
        let belongs = self.belongs(Path::Log { connection: session.connection }, &message);
        (belongs && message.body == Body::Transfer).then_some(session.connection)
    }

    /// What goes over on this connection, and its session.
    fn session_on(&mut self, connection: u64) -> Option<(&mut Session, &mut Transfer)> {
        let State::Alone(Alone::Live(Some(Joiner { session, transfer, .. }))) = &mut self.state else { return None };
        transfer.as_mut().filter(|_| session.connection == connection).map(|transfer| (session, transfer))
    }

    fn transfer_on(&mut self, connection: u64) -> Option<&mut Transfer> {
        self.session_on(connection).map(|(_, transfer)| transfer)
    }

    /// As long as something moves, nobody gives up. A guest that waits is not kept waiting for long.
    pub(super) fn transfer_progressed(&mut self, connection: u64) {
        let timing = &self.config.timing;
        match &mut self.state {
            State::Joining { session, .. } if session.connection == connection => {
                session.handshake_until = Some(self.now.after(timing.acknowledge + timing.detect));
            }
            State::Alone(Alone::Live(Some(Joiner { session, transfer: Some(transfer), .. })))
                if session.connection == connection && !transfer.stops =>
            {
                session.handshake_until = Some(self.now.after(timing.acknowledge));
            }
            _ => {}
        }
    }

    pub(super) fn transfer_failed(&mut self, connection: u64, reason: &str, outputs: &mut Vec<Output>) {
        let joins = matches!(&self.state, State::Joining { session, .. } if session.connection == connection);
        if joins || self.transfer_on(connection).is_some() {
            self.close_session(reason, outputs);
        }
    }

    /// Primary: from here on the guest waits, for T_ACK at the longest, whatever moves.
    pub(super) fn guest_stops(&mut self, connection: u64) {
        let until = self.now.after(self.config.timing.acknowledge);
        if let Some((session, transfer)) = self.session_on(connection)
            && !std::mem::replace(&mut transfer.stops, true)
        {
            session.handshake_until = Some(until);
        }
    }

    /// Primary: nothing more becomes of the guest before COMMIT, or before the transfer is given up.
    pub(super) fn guest_stopped(&mut self, connection: u64, state: GuestState, outputs: &mut Vec<Output>) {
        // This news may come before that of the stop.
        self.guest_stops(connection);
        let Some(transfer) = self.transfer_on(connection) else { return };
        transfer.stopped = Some(state);
        outputs.push(Output::Trace(TraceEvent::GuestStopped { position: state.position }));
        self.compare_states(outputs);
    }

    /// Joiner: it has all that the primary has sent.
    pub(super) fn state_restored(&mut self, connection: u64, state: GuestState, outputs: &mut Vec<Output>) {
        self.transfer_progressed(connection);
        match &mut self.state {
            State::Joining { session, restored, .. } if session.connection == connection => *restored = Some(state),
            _ => return,
        }
        outputs.push(Output::BeginWhereCarried);
        outputs.push(Output::Trace(TraceEvent::StateRestored { position: state.position }));
        let GuestState { position, digest } = state;
        self.send_on_log(Body::Restored { position, digest }, outputs);
    }

    /// Primary: the joiner says what it has.
    pub(super) fn joiner_restored(
        &mut self,
        path: Path,
        message: &Message,
        state: GuestState,
        outputs: &mut Vec<Output>,
    ) {
        let Path::Log { connection } = path else { return };
        if self.transfer_on(connection).is_none() {
            return;
        }
        self.hearing.hear(path, &message.header, self.now);
        let Some(transfer) = self.transfer_on(connection) else { return };
        transfer.restored = Some(state);
        outputs.push(Output::Trace(TraceEvent::StateRestored { position: state.position }));
        self.compare_states(outputs);
    }

    /// A state that is torn, old or of several moments at once is no state of the guest.
    fn compare_states(&mut self, outputs: &mut Vec<Output>) {
        if let Some(Transfer { stopped: Some(stopped), restored: Some(restored), .. }) =
            self.state.joiner().and_then(|joiner| joiner.transfer)
            && stopped != restored
            && self.config.rules.state_compared
        {
            let reason = format!(
                "the guest's state did not get over: {} at position {} was sent, and {} at {} is there",
                stopped.digest, stopped.position, restored.digest, restored.position
            );
            self.close_session(&reason, outputs);
        }
    }

    /// For `ftvmm status`: how far this primary is with getting a backup for a guest that runs.
    pub(super) fn joining(&self) -> Option<&'static str> {
        let State::Alone(Alone::Live(joiner)) = &self.state else { return None };
        match joiner {
            None => self.wants_backup.then_some("dialling"),
            Some(Joiner { transfer: None, .. }) => Some("greeting"),
            Some(Joiner { transfer: Some(Transfer { stops: false, .. }), .. }) => Some("copying"),
            Some(Joiner { transfer: Some(_), .. }) => Some("stopped"),
        }
    }

    /// A joiner waits for COMMIT: it has the guest's state, all that the guest has said before has left (R13), and the arbiter has to be read first
    /// (R15).
    pub(super) fn wants_commit(&self) -> bool {
        let all_left = self.released.index >= self.produced || !self.config.rules.outputs_before_state;
        match self.state.joiner() {
            Some(Joiner { transfer: Some(transfer), .. }) => {
                transfer.stopped.is_some() && transfer.restored.is_some() && all_left
            }
            Some(Joiner { incarnation, transfer: None, .. }) => {
                incarnation.is_some() && matches!(self.state, State::Alone(Alone::SeeksBackup(_)))
            }
            None => false,
        }
    }
}
