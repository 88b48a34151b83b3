//! What a node's threads do: this carries the state machine's outputs out, as the runtime does.

use super::checkers::{Violation, check_lag, check_log_holder};
use super::fault::{FaultKind, MILLISECOND};
use super::guest::{Destination, Guest};
use super::network::Endpoint;
use super::world::{Event, Local, World};
use crate::protocol::{
    HaltReason, Input, LogPosition, NeedsBackup, Output, OutputIndex, OutputResult, Path, Remembered, Role, Share,
    TimingConfig, TraceEvent, Unusable,
};

/// Bound within which a write completes after its check (W of R19), less than which a slow one takes.
const WRITE_BOUND: u64 = TimingConfig::DEFAULT.write_bound_ms * MILLISECOND;
/// How long what a thread tells the state machine waits for its step.
const TOLD_AFTER: u64 = 50_000;
/// What a slow replay takes for an entry: thrice as long as a guest without noise, at full speed.
const SLOW_REPLAY: u64 = 15 * MILLISECOND;

impl World {
    pub(super) fn carry_out(&mut self, host: usize, output: Output) {
        match output {
            Output::Send { path, bytes } => self.send(host, path, bytes),
            Output::Dial => self.dial(host),
            Output::CloseSession { connection } => self.close(host, connection as usize),
            Output::StreamEntries { connection, from } => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.stream = Some((connection, from));
                }
                self.stream(host);
            }
            Output::ReadArbiter { request } | Output::CheckArbiter { request } => self.ask_arbiter(host, request, None),
            Output::AskArbiter { request, generation } => self.ask_arbiter(host, request, Some(generation)),
            Output::StartGuest => self.run_guest(host),
            Output::BeginTransfer { connection } => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.copying = Some(connection);
                }
                let delay =
                    if self.schedule.noise { self.random.between(1, 30) * MILLISECOND } else { 5 * MILLISECOND };
                self.local_now(host, self.unless_explored(delay), Local::Copied { connection });
            }
            Output::EndTransfer => self.end_transfer(host),
            Output::ResumeGuest => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.copying = None;
                    process.stopped = false;
                    process.truncated = process.guest.position;
                }
            }
            Output::BeginWhereCarried => {}
            Output::DiscardState => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.restored = None;
                }
            }
            Output::StartReplay => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.replaying = true;
                    if let Some((guest, entries)) = process.restored.take() {
                        (process.guest, process.entries) = (guest, entries);
                    }
                }
                self.wake_replay(host);
            }
            Output::CloseLog { position } => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.closed_at = Some(position);
                }
                self.wake_replay(host);
            }
            Output::ReopenLog { .. } => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.closed_at = None;
                }
            }
            Output::CheckDevices { request } => self.check_devices(host, request),
            Output::Attach { .. } => {
                self.check_holder(host);
                if !self.hosts[host].process.as_ref().is_some_and(|process| process.devices_open) {
                    // It has won, and can do nothing with it.
                    self.end_process(host);
                    return;
                }
                let delay = self.random.between(0, 2 * MILLISECOND);
                self.local_now(host, delay, Local::Input(Input::Attached));
            }
            Output::Reissue { .. } => self.coverage.reissues += 1,
            Output::GoLive => {
                self.check_holder(host);
                self.run_guest(host);
            }
            Output::TryRelease => self.local_now(host, 0, Local::Release),
            Output::ForgetOutputs { through } => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.held = process.held.split_off(&through.next());
                    process.forgotten = through;
                }
            }
            Output::ThrottleGuest { share } => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    let before = std::mem::replace(&mut process.share, share);
                    self.coverage.guests_slowed += u64::from(before == Share::WHOLE);
                    self.coverage.guest_stalls += u64::from(share == Share::NONE);
                }
            }
            // What waits at a thawed host was queued before this, so it is handed over before this.
            Output::DrainSockets { request } => {
                self.coverage.pauses_noticed += 1;
                self.local_now(host, 0, Local::Input(Input::SocketsDrained { request }));
            }
            Output::Halt { reason } => {
                match reason {
                    HaltReason::Broken { invariant } => {
                        self.verdict(Err(Violation::new("invariant", invariant.to_owned())));
                    }
                    HaltReason::Lost { .. } => self.coverage.arbitrations_lost += 1,
                    HaltReason::AlreadyBootstrapped { .. } => self.coverage.bootstraps_refused += 1,
                    HaltReason::Diverged { .. } => self.coverage.divergences += 1,
                    HaltReason::OutputFailed { .. } | HaltReason::Fenced { .. } => self.coverage.failed_writes += 1,
                    HaltReason::HostFailed { .. } => self.coverage.hosts_failed += 1,
                    HaltReason::Mismatch { .. } => self.coverage.terms_refused += 1,
                    HaltReason::Usurped { .. } | HaltReason::FrameRefused { .. } | HaltReason::Unattachable { .. } => {}
                }
                self.end_process(host);
            }
            Output::Stop { .. } => self.end_process(host),
            Output::Trace(event) => self.trace(host, event),
            Output::RunAlone => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.stream = None;
                }
            }
            Output::TruncateLog { through } => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.truncated = process.truncated.max(through);
                }
            }
            Output::Announce => {}
        }
    }

    fn trace(&mut self, host: usize, event: TraceEvent) {
        match &event {
            TraceEvent::Role { from, to, .. } => match (from, to) {
                (Role::Won, Role::Alone) => self.coverage.failovers += 1,
                (Role::Protected, Role::Alone) => self.coverage.primaries_alone += 1,
                (Role::Candidate, Role::Backup) => self.coverage.sessions_resumed += 1,
                (Role::Joining, Role::Backup) => {
                    self.coverage.pairs_formed += 1;
                    self.formed = true;
                }
                _ => {}
            },
            TraceEvent::Arbiter { outcome, .. } if outcome == "unreachable" => self.coverage.arbiter_unreachable += 1,
            TraceEvent::Committed { position, .. } if *position > LogPosition::START => {
                self.coverage.states_carried += 1;
            }
            TraceEvent::HandedOver { .. } => self.coverage.hand_overs += 1,
            TraceEvent::PlanGivenUp { .. } => self.coverage.plans_given_up += 1,
            TraceEvent::NeedsBackup { reason: NeedsBackup::Operator } => {
                let role = self.hosts[host].process.as_ref().map(|process| process.node.role());
                if role == Some(Role::Won) {
                    self.coverage.hand_overs_taken += 1;
                } else {
                    self.coverage.backups_let_go += 1;
                }
            }
            TraceEvent::TransferGivenUp { .. } => self.coverage.transfers_given_up += 1,
            TraceEvent::SessionClosed { reason, .. } if reason == "the handshake took too long" => {
                self.coverage.handshakes_given_up += 1;
            }
            _ => {}
        }
        self.tell(|| format!("host {host}: {event:?}"));
    }

    /// Devices that are open stay open, whatever comes, until the next check finds them gone.
    fn check_devices(&mut self, host: usize, request: u64) {
        let gone = self.hosts[host].devices_gone_until > self.now;
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        process.devices_open = !gone;
        self.coverage.devices_missed += u64::from(gone);
        let found = Unusable { network: gone.then(|| "it is down".to_owned()), disk: None };
        let delay = self.random.between(100_000, MILLISECOND);
        self.local_now(host, delay, Local::Input(Input::DevicesChecked { request, found }));
    }

    fn check_holder(&mut self, host: usize) {
        let produced = self.hosts[host].process.as_ref().map_or(OutputIndex::NONE, |process| process.guest.outputs);
        let verdict = check_log_holder(produced, self.contents.newest());
        self.verdict(verdict);
    }

    /// A delay, which a walk does not have: there everything may come at any time.
    fn unless_explored(&self, delay: u64) -> u64 {
        if self.schedule.explored.is_some() { 0 } else { delay }
    }

    /// Primary: the copying thread is through with the memory.
    pub(super) fn copied(&mut self, host: usize, connection: u64) {
        if let Some(process) = self.hosts[host].process.as_mut()
            && process.copying == Some(connection)
        {
            process.stop_due = true;
            self.step(host, Input::TransferProgressed { connection });
        }
    }

    /// Primary: the guest has come to an input, and what is left of its state goes over.
    pub(super) fn stop_guest(&mut self, host: usize) {
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        let Some(connection) = process.copying else { return };
        process.stop_due = false;
        process.stopped = true;
        let (position, produced, digest) = (process.guest.position, process.guest.outputs, process.guest.digest());
        let mut guest = process.guest.clone();
        let entries = process.entries[..position.0 as usize].to_vec();
        if std::mem::take(&mut self.hosts[host].state_torn) {
            self.coverage.states_torn += 1;
            guest.corrupt();
        }
        self.told_by_guest(host, Input::GuestStops { connection });
        self.told_by_guest(host, Input::GuestStopped { connection, position, produced, digest });
        if let Some((at, to)) = self.bytes(host, connection as usize) {
            self.local(at, to.host, to.process, Local::State { connection: connection as usize, guest, entries });
        }
    }

    /// Joiner: a guest's state is here, whole.
    pub(super) fn state_arrives(&mut self, host: usize, connection: usize, guest: Guest, entries: Vec<u64>) {
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        if process.node.role() != Role::Joining {
            return;
        }
        let (position, digest) = (guest.position, guest.digest());
        process.restored = Some((guest, entries));
        self.step(host, Input::StateRestored { connection: connection as u64, position, digest });
    }

    fn end_transfer(&mut self, host: usize) {
        if let Some(process) = self.hosts[host].process.as_mut() {
            (process.copying, process.stop_due, process.stopped) = (None, false, false);
        }
    }

    fn run_guest(&mut self, host: usize) {
        if let Some(process) = self.hosts[host].process.as_mut() {
            process.entries.truncate(process.guest.position.0 as usize);
            process.truncated = process.guest.position;
            if !std::mem::replace(&mut process.live, true) {
                self.local_now(host, 0, Local::GuestRun);
            }
        }
    }

    fn send(&mut self, host: usize, path: Path, bytes: Vec<u8>) {
        let noise = self.schedule.noise;
        match path {
            Path::Heartbeat { .. } => {
                // Now and then a datagram comes twice.
                let copies = 1 + usize::from(noise && self.random.once_in(100));
                self.coverage.datagrams_twice += copies as u64 - 1;
                for to in (0..self.hosts.len()).filter(|to| *to != host).flat_map(|to| vec![to; copies]) {
                    if let Some(at) = self.network.datagram(host, to, self.now, &mut self.random, noise)
                        && let Some(process) = self.hosts[to].process.as_ref().map(|process| process.id)
                    {
                        let input = Input::Message { path, bytes: bytes.clone() };
                        self.local(at, to, process, Local::Input(input));
                    }
                }
            }
            Path::Log { connection } => {
                if let Some((at, to)) = self.bytes(host, connection as usize) {
                    self.local(at, to.host, to.process, Local::Input(Input::Message { path, bytes }));
                }
            }
        }
    }

    /// When bytes sent now arrive at the other end, if this end is open.
    fn bytes(&mut self, host: usize, connection: usize) -> Option<(u64, Endpoint)> {
        let process = self.hosts[host].process.as_ref()?.id;
        let end = self.network.end_of(connection, process)?;
        if !self.network.connections[connection].open[end] {
            return None;
        }
        let at = self.network.bytes(connection, end, self.now, &mut self.random, self.schedule.noise);
        Some((at, self.network.connections[connection].ends[1 - end]))
    }

    /// Sends what the log has beyond what was sent.
    pub(super) fn stream(&mut self, host: usize) {
        let clock = self.hosts[host].clock(self.now);
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        let Some((connection, first)) = process.stream else { return };
        let through = process.newest();
        if first > through {
            return;
        }
        let Some(header) = process.node.stamp_entries(connection, first, through, clock) else { return };
        process.stream = Some((connection, through.next()));
        let values = process.entries[first.0 as usize - 1..].to_vec();
        let connection = connection as usize;
        // Without R6 the first half of a frame is taken for the whole one.
        let half = (!self.rules.whole_entries).then(|| values[..values.len() / 2].to_vec());
        for values in half.into_iter().chain([values]) {
            if let Some((at, to)) = self.bytes(host, connection) {
                let header = header.clone();
                self.local(at, to.host, to.process, Local::Entries { connection, header, values });
            }
        }
    }

    /// The backup's receiver: stores frames, and says so.
    pub(super) fn entries_arrive(&mut self, host: usize, connection: usize, header: Vec<u8>, values: &[u64]) {
        let Some(process) = self.hosts[host].process.as_ref().map(|process| process.id) else { return };
        if !self.is_open(connection, process) {
            return;
        }
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        let connection = connection as u64;
        if let Some(range) = process.node.accepts_entries(connection, &header) {
            let missing = process.newest().next().since(range.first) as usize;
            process.entries.extend(values.iter().skip(missing));
            let to_replay = process.newest().since(process.guest.position);
            if self.only_replay_is_slow() {
                let verdict = check_lag(to_replay * SLOW_REPLAY, &self.schedule.timing(host));
                self.verdict(verdict);
            }
            self.step(host, Input::EntriesStored { connection, header });
            self.wake_replay(host);
        }
    }

    /// Whether nothing else goes wrong, so that nothing but the guest's share decides how much there is to replay.
    fn only_replay_is_slow(&self) -> bool {
        let faults = &self.schedule.faults;
        !self.schedule.noise && faults.iter().all(|fault| matches!(fault.kind, FaultKind::SlowReplay { .. }))
    }

    fn wake_replay(&mut self, host: usize) {
        if let Some(process) = self.hosts[host].process.as_mut()
            && process.replaying
            && !std::mem::replace(&mut process.replay_due, true)
        {
            let delay = self.random.between(20_000, MILLISECOND);
            self.local_now(host, delay, Local::Replay);
        }
    }

    /// The backup's vCPU: replays what is stored.
    pub(super) fn replay(&mut self, host: usize) {
        let stalled_until = self.hosts[host].replay_stalled_until;
        if stalled_until > self.now {
            self.local_now(host, stalled_until - self.now, Local::Replay);
            return;
        }
        let is_slow = self.hosts[host].slow_replay_until > self.now;
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        process.replay_due = false;
        if process.live {
            return;
        }
        let newest = process.newest();
        let all = process.closed_at.map_or(newest, |end| newest.min(end));
        let position = process.guest.position;
        let slow = is_slow && position < all;
        let end = if slow { position.next() } else { all };
        let mut produced = Vec::new();
        while process.guest.position < end {
            produced.extend(process.guest.take(process.entries[process.guest.position.0 as usize]));
        }
        let forgotten = process.forgotten;
        process
            .held
            .extend(produced.iter().filter(|output| output.index > forgotten).map(|output| (output.index, *output)));
        let through = process.guest.position;
        let drained = process.closed_at.filter(|_| end == all);
        process.replay_due = slow;
        for output in produced {
            self.told_by_guest(host, output.produced());
        }
        self.told_by_guest(host, Input::EntriesReplayed { through });
        if slow {
            self.local_now(host, SLOW_REPLAY, Local::Replay);
        }
        if let Some(position) = drained {
            self.told_by_guest(host, Input::Drained { position });
        }
    }

    /// Looks right before the system call.
    pub(super) fn try_release(&mut self, host: usize) {
        let clock = self.hosts[host].clock(self.now);
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        if process.emitting {
            return;
        }
        let next = if self.rules.output_order {
            process.held.get(&process.node.released().next())
        } else {
            process.held.values().next_back()
        };
        let Some(output) = next.copied() else { return };
        if process.node.released_until(output.index, output.depends_on, output.overlaps, clock).is_none() {
            let status = process.node.status(clock);
            if status.role == Role::Protected && status.acknowledged >= output.depends_on && !status.may_speak {
                self.coverage.lease_expired += 1;
            }
            return;
        }
        process.emitting = true;
        let generation = process.node.generation();
        let verdict = self.speaker.released(output.index, generation);
        self.verdict(verdict);
        if let Some(until) = self.hosts[host].freeze_at_release_until.take() {
            self.freeze(host, until);
        }
        if !self.rules.output_completed {
            self.step(host, Input::OutputDone { output: output.mark(), result: OutputResult::Completed });
        }
        let delay = self.random.between(1_000, 100_000);
        self.local_now(host, delay, Local::Emit { index: output.index, checked_at: self.now });
    }

    /// The system call.
    pub(super) fn emit(&mut self, host: usize, index: OutputIndex, checked_at: u64) {
        let late = self.now - checked_at;
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        let Some(output) = process.held.get(&index).copied() else { return };
        if let Destination::Block(_) = output.destination
            && late >= WRITE_BOUND
        {
            // R19's bound: a write that would land after it is not begun, it has to pass the check again.
            process.emitting = false;
            self.local_now(host, 0, Local::Release);
            return;
        }
        let id = process.id;
        if late > MILLISECOND {
            self.coverage.late_emissions += 1;
        }
        if matches!(output.destination, Destination::Block(_)) && std::mem::take(&mut self.hosts[host].write_fails) {
            let done = Input::OutputDone { output: output.mark(), result: OutputResult::Failed };
            self.local_now(host, 0, Local::Input(done));
            return;
        }
        if output.destination == Destination::Frame && std::mem::take(&mut self.hosts[host].frame_refused) {
            self.coverage.frames_refused += 1;
            let done = Input::OutputDone { output: output.mark(), result: OutputResult::Refused };
            self.local_now(host, 0, Local::Input(done));
            return;
        }
        self.coverage.outputs_emitted += 1;
        let verdict = self.contents.emit(index, output.content, id);
        self.verdict(verdict);
        match output.destination {
            Destination::Frame => {
                self.released_mark.complete(index);
                self.completed(host, index);
            }
            Destination::Block(block) => {
                let room = WRITE_BOUND - late;
                let slow = self.hosts[host].slow_writes_until > self.now;
                let delay = if slow { room - 1 } else { self.random.between(20_000, 300_000).min(room - 1) };
                self.at(self.now + delay, Event::DiskLand { host, block, value: output.content, index });
                let told_after = if self.schedule.explored.is_some() { 0 } else { TOLD_AFTER };
                self.local_now(host, delay + told_after, Local::Completed { index });
            }
        }
    }

    /// Behind the system call, for a write when the disk's thread has told: R moves, and the next output is looked at.
    pub(super) fn completed(&mut self, host: usize, index: OutputIndex) {
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        let Some(output) = process.held.remove(&index) else { return };
        process.emitting = false;
        self.step(host, Input::OutputDone { output: output.mark(), result: OutputResult::Completed });
        let Some(process) = self.hosts[host].process.as_ref() else { return };
        if process.node.role().is_primary() {
            let verdict = self.released_mark.check(process.node.released());
            self.verdict(verdict);
        }
        self.local_now(host, 0, Local::Release);
    }

    /// What the guest's thread tells the state machine: in its order and a little later, for what sends the log and lets outputs leave does not wait
    /// for that. A walk has it at once: when the rest follows is already any order there.
    pub(super) fn told_by_guest(&mut self, host: usize, input: Input) {
        if self.schedule.explored.is_some() {
            return self.step(host, input);
        }
        let delay = match self.schedule.noise {
            // The guest's thread is interrupted before it has told.
            true if self.random.once_in(50) => self.random.between(TOLD_AFTER, 20 * MILLISECOND),
            true => self.random.between(0, 2 * TOLD_AFTER),
            false => TOLD_AFTER,
        };
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        process.told_at = process.told_at.max(self.now + delay);
        let (at, id) = (process.told_at, process.id);
        self.local(at, host, id, Local::Input(input));
    }

    fn dial(&mut self, host: usize) {
        let others: Vec<usize> = (0..self.hosts.len()).filter(|other| *other != host).collect();
        let to = others[self.random.between(0, others.len() as u64) as usize];
        if let Some(process) = self.hosts[host].process.as_ref().map(|process| process.id) {
            self.at(self.now + 300_000, Event::Connect { from: host, process, to });
        }
    }

    pub(super) fn connect(&mut self, from: usize, process: u64, to: usize) {
        let listener = self.hosts[to].process.as_ref().map(|process| process.id);
        let dialler = self.hosts[from].process.as_ref().is_some_and(|running| running.id == process);
        let (Some(listener), true) = (listener, dialler) else {
            self.local(self.now, from, process, Local::Input(Input::DialFailed));
            return;
        };
        if !self.network.connectable(from, to, self.now) {
            self.local(self.now + 20 * MILLISECOND, from, process, Local::Input(Input::DialFailed));
            return;
        }
        let ends = [Endpoint { host: from, process }, Endpoint { host: to, process: listener }];
        let connection = self.network.connect(ends, self.now) as u64;
        for (end, dialled) in ends.into_iter().zip([true, false]) {
            let opened = Input::SessionOpened { connection, dialled };
            self.local(self.now, end.host, end.process, Local::Input(opened));
        }
    }

    fn close(&mut self, host: usize, connection: usize) {
        let Some(process) = self.hosts[host].process.as_ref().map(|process| process.id) else { return };
        let Some(end) = self.network.end_of(connection, process) else { return };
        if let Some((at, to)) = self.bytes(host, connection) {
            self.network.connections[connection].open[end] = false;
            self.local(at, to.host, to.process, Local::PeerClosed { connection });
            self.session_closed(host, process, connection);
        }
    }

    pub(super) fn peer_closed(&mut self, host: usize, connection: usize) {
        let Some(process) = self.hosts[host].process.as_ref().map(|process| process.id) else { return };
        if let Some(end) = self.network.end_of(connection, process)
            && std::mem::replace(&mut self.network.connections[connection].open[end], false)
        {
            self.session_closed(host, process, connection);
        }
    }

    fn session_closed(&mut self, host: usize, process: u64, connection: usize) {
        let input = Input::SessionClosed { connection: connection as u64, reason: "closed".to_owned() };
        self.local(self.now, host, process, Local::Input(input));
    }

    /// The process is gone; its kernel closes its connections, if it has power.
    pub(super) fn end_process(&mut self, host: usize) {
        for connection in 0..self.network.connections.len() {
            if self.hosts[host].powered {
                self.close(host, connection);
            }
        }
        if let Some(process) = self.hosts[host].process.take() {
            let node = &process.node;
            let (role, generation, released) = (node.role(), node.generation(), node.released());
            self.hosts[host].remembered = Some(Remembered { role, generation, released });
        }
    }
}
