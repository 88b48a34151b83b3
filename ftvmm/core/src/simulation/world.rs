//! The simulated world: one queue of events, handed out in the order of their time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::arbiter::Arbiter;
use super::checkers::{Contents, ReleasedMark, Speaker, Verdict, Violation};
use super::checkers::{
    check_failed_read, check_final_disk, check_landing, check_liveness, check_owner, check_pair, check_read,
};
use super::coverage::Coverage;
use super::fault::{MILLISECOND, Schedule};
use super::guest::{BLOCKS, Destination, Guest, GuestOutput, GuestRequest};
use super::host::{Host, Process};
use super::network::Network;
use super::random::Random;
use crate::protocol::{
    ArbiterRecord, AskResult, Config, Generation, Incarnation, Input, Node, OutputIndex, OutputResult, Path,
    ReadResult, Role, Rules, Share,
};

/// The modelled guest asks for nothing more in the last part of a run, so that everything held can leave.
const QUIET_BEFORE_END: u64 = 300 * MILLISECOND;

/// What a guest is told instead of a block that its disk does not read.
const READ_FAILED: u64 = u64::MAX;

/// The primary's log is full with so many entries: some hundred milliseconds of its guest's work.
const BUFFER_ENTRIES: u64 = 60;

/// Something that happens at a host, to one process.
#[derive(Clone, Debug, Hash)]
pub enum Local {
    Input(Input),
    /// A frame of entries arrives on a connection.
    Entries {
        connection: usize,
        header: Vec<u8>,
        values: Vec<u64>,
    },
    /// The other end of the connection is gone.
    PeerClosed {
        connection: usize,
    },
    Tick,
    GuestRun,
    Replay,
    Release,
    /// Primary: the guest's memory has been copied to the joiner of this connection.
    Copied {
        connection: u64,
    },
    /// Joiner: what a guest is, and what it was told.
    State {
        connection: usize,
        guest: Guest,
        entries: Vec<u64>,
    },
    /// The system call of an output whose check said yes.
    Emit {
        index: OutputIndex,
        checked_at: u64,
    },
    /// The guest has computed on its last input, and says this.
    Computed {
        outputs: Vec<GuestOutput>,
    },
    /// The system call of a block write has ended well.
    Completed {
        index: OutputIndex,
    },
}

/// Something that happens.
#[derive(Clone, Debug, Hash)]
pub enum Event {
    Local {
        host: usize,
        process: u64,
        what: Local,
    },
    /// A block write lands, whatever became of the host since.
    DiskLand {
        host: usize,
        block: usize,
        value: u64,
        index: OutputIndex,
    },
    ArbiterRead {
        host: usize,
        process: u64,
        request: u64,
    },
    ArbiterAsk {
        host: usize,
        process: u64,
        request: Option<u64>,
        generation: Generation,
    },
    Connect {
        from: usize,
        process: u64,
        to: usize,
    },
    Fault(usize),
    Stray {
        host: usize,
        until: u64,
    },
    /// A new process starts on a dead host.
    Start {
        host: usize,
    },
    /// The managers look whether the VM has a backup.
    Managers,
    Thaw(usize),
}

/// Everything there is.
#[derive(Clone)]
pub struct World {
    pub(super) now: u64,
    /// What is to happen, by its time, and of one time in the order of its coming about.
    pub(super) events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(super) random: Random,
    pub(super) schedule: Schedule,
    pub(super) rules: Rules,
    pub(super) hosts: Vec<Host>,
    pub(super) network: Network,
    pub(super) arbiter: Arbiter,
    pub(super) disk: [u64; BLOCKS],
    /// The output that each block holds.
    pub(super) landed: [OutputIndex; BLOCKS],
    next_process: u64,
    pub(super) speaker: Speaker,
    pub(super) contents: Contents,
    pub(super) released_mark: ReleasedMark,
    pub(super) formed: bool,
    /// In a walk: when a fault last began or the guest last ran.
    pub(super) stirred_at: u64,
    pub(super) fatal_faults: usize,
    pub(super) coverage: Coverage,
    pub(super) violation: Option<Violation>,
    /// Every trace event as a line, if wanted.
    pub(super) story: Option<Vec<String>>,
}

impl World {
    pub fn new(schedule: &Schedule, rules: Rules, tell: bool) -> World {
        let mut random = if schedule.explored.is_some() {
            Random::none()
        } else {
            Random::new(schedule.seed ^ 0xa076_1d64_78bd_642f)
        };
        let hosts = (0..schedule.hosts)
            .map(|_| {
                let noise = u64::from(schedule.noise);
                let offset = 1_000_000_000 + random.between(0, 1 << 40) * noise;
                let error = random.between(0, 2001) as i64 - 1000;
                Host::new(offset, error * noise as i64)
            })
            .collect();
        let mut world = World {
            now: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            random,
            schedule: schedule.clone(),
            rules,
            hosts,
            network: Network::default(),
            arbiter: Arbiter::default(),
            disk: [0; BLOCKS],
            landed: [OutputIndex::NONE; BLOCKS],
            next_process: 100,
            speaker: Speaker::default(),
            contents: Contents::default(),
            released_mark: ReleasedMark::default(),
            formed: false,
            stirred_at: 0,
            fatal_faults: 0,
            coverage: Coverage::default(),
            violation: None,
            story: tell.then(Vec::new),
        };
        for host in 0..world.hosts.len() {
            world.start_process(host, host == 0);
        }
        if schedule.managed {
            world.at(0, Event::Managers);
        }
        for (number, fault) in schedule.faults.iter().enumerate() {
            world.at(fault.at, Event::Fault(number));
        }
        world
    }

    /// Runs to the end of the schedule, or to the first broken promise.
    pub fn run(mut self) -> (Coverage, Option<Violation>, Vec<String>) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > self.schedule.end || self.violation.is_some() {
                break;
            }
            self.now = at;
            self.happen(event);
        }
        self.now = self.schedule.end;
        self.coverage.pairs_to_keep += u64::from(self.schedule.rides_out);
        if self.violation.is_none() {
            let verdict = self.check_settled();
            self.verdict(verdict);
        }
        (self.coverage, self.violation, self.story.unwrap_or_default())
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((at.max(self.now), self.scheduled), event);
    }

    pub(super) fn local(&mut self, at: u64, host: usize, process: u64, what: Local) {
        self.at(at, Event::Local { host, process, what });
    }

    /// For an event at the process that runs on this host now.
    pub(super) fn local_now(&mut self, host: usize, delay: u64, what: Local) {
        if let Some(process) = self.hosts[host].process.as_ref().map(|process| process.id) {
            self.local(self.now + delay, host, process, what);
        }
    }

    pub(super) fn verdict(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict {
            self.tell(|| format!("BROKEN: {}: {}", violation.checker, violation.finding));
            self.violation.get_or_insert(violation);
        }
    }

    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>12.6} ms  {}", self.now as f64 / MILLISECOND as f64, line()));
        }
    }

    pub(super) fn start_process(&mut self, host: usize, bootstrap: bool) {
        self.next_process += 1;
        let id = self.next_process;
        let mut config = Config::new([7; 16], [9; 32]);
        config.rules = self.rules;
        config.timing = self.schedule.timing(host);
        if let Some(heartbeats) = self.schedule.explored {
            config.heartbeat_paths = heartbeats.paths;
        }
        let node = match self.hosts[host].remembered {
            Some(remembered) => Node::restarted(config, Incarnation(id), remembered),
            None => Node::new(config, Incarnation(id)),
        };
        let mut process = Process::new(id, node);
        process.guest.small = self.schedule.explored.is_some();
        self.hosts[host].process = Some(process);
        self.hosts[host].powered = true;
        self.step(host, Input::Tick);
        if bootstrap {
            self.step(host, Input::BootstrapRequested);
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Local { host, process, what } => self.happen_at(host, process, what),
            Event::DiskLand { block, value, index, .. } => {
                let landed = &mut self.landed[block];
                let verdict = check_landing(block, index, *landed);
                *landed = index;
                self.verdict(verdict);
                self.disk[block] = value;
                self.released_mark.complete(index);
            }
            Event::ArbiterRead { host, process, request } => {
                let stale = self.hosts[host].arbiter_stale_until > self.now;
                let result = if stale { self.arbiter.read_stale() } else { self.arbiter.read() };
                self.coverage.stale_reads += u64::from(stale);
                let delay = self.random.between(100_000, MILLISECOND);
                self.local(self.now + delay, host, process, Local::Input(Input::ArbiterRead { request, result }));
            }
            Event::ArbiterAsk { host, process, request, generation } => {
                let result = self.arbiter.ask(generation, Incarnation(process));
                self.tell(|| format!("arbiter: {process} asks for generation {generation}: {result:?}"));
                if let Some(request) = request {
                    let delay = self.random.between(100_000, MILLISECOND);
                    self.local(self.now + delay, host, process, Local::Input(Input::ArbiterAsked { request, result }));
                }
            }
            Event::Connect { from, process, to } => self.connect(from, process, to),
            Event::Fault(number) => self.inject(number),
            Event::Stray { host, until } => self.stray(host, until),
            Event::Start { host } => self.restart(host),
            Event::Managers => self.manage(),
            Event::Thaw(host) => self.thaw(host),
        }
    }

    fn happen_at(&mut self, host: usize, process: u64, what: Local) {
        let place = &mut self.hosts[host];
        let Some(running) = place.process.as_mut().filter(|running| running.id == process) else { return };
        if place.frozen_until > self.now {
            place.backlog.push(Event::Local { host, process, what });
            return;
        }
        if matches!(what, Local::Release | Local::Emit { .. } | Local::Completed { .. })
            && place.sender_stalled_until > self.now
        {
            let at = place.sender_stalled_until;
            self.coverage.sender_stalls += 1;
            self.local(at, host, process, what);
            return;
        }
        match what {
            Local::Input(Input::OutputDone { output: mark, result }) if result != OutputResult::Completed => {
                running.emitting = false;
                if result == OutputResult::Refused
                    && running.node.role() == Role::Alone
                    && let Some(output) = running.held.remove(&mark.index)
                {
                    self.contents.lose(output.index, output.content);
                    self.released_mark.complete(output.index);
                }
                self.step(host, Input::OutputDone { output: mark, result });
                self.local_now(host, 0, Local::Release);
            }
            Local::Input(Input::Message { path, bytes }) => {
                if let Path::Log { connection } = path
                    && !self.is_open(connection as usize, process)
                {
                    return;
                }
                self.step(host, Input::Message { path, bytes });
            }
            Local::Input(input) => self.step(host, input),
            Local::Entries { connection, header, values } => {
                self.entries_arrive(host, connection, header, &values);
            }
            Local::PeerClosed { connection } => self.peer_closed(host, connection),
            Local::Tick => {
                running.tick_at = u64::MAX;
                self.step(host, Input::Tick);
            }
            Local::GuestRun => self.guest_runs(host),
            Local::Computed { outputs } => {
                running.computes = false;
                self.coverage.late_outputs += 1;
                self.guest_says(host, outputs);
            }
            Local::Replay => self.replay(host),
            Local::Release => self.try_release(host),
            Local::Copied { connection } => self.copied(host, connection),
            Local::State { connection, guest, entries } => {
                if self.is_open(connection, process) {
                    self.state_arrives(host, connection, guest, entries);
                }
            }
            Local::Emit { index, checked_at } => self.emit(host, index, checked_at),
            Local::Completed { index } => self.completed(host, index),
        }
    }

    /// One step of the code under test, and what must hold after it.
    pub(super) fn step(&mut self, host: usize, input: Input) {
        let clock = self.hosts[host].clock(self.now);
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        let mut outputs = Vec::new();
        process.node.step(clock, input, &mut outputs);
        self.coverage.steps += 1;
        let node = &process.node;
        let (role, generation, incarnation) = (node.role(), node.generation(), node.incarnation());
        let released = node.released();
        if role.is_primary() {
            let released = self.released_mark.check(released);
            let speaker = self.speaker.observe(role, generation, incarnation);
            self.verdict(released);
            self.verdict(speaker);
        }
        for output in outputs {
            self.carry_out(host, output);
        }
        // As a node does behind all that it has taken in, whether the news of an output has come or not. In a walk it has.
        let waits = |process: &Process| process.live && !process.emitting && !process.held.is_empty();
        if self.schedule.explored.is_none() && self.hosts[host].process.as_ref().is_some_and(waits) {
            self.local_now(host, 0, Local::Release);
        }
        self.schedule_tick(host);
    }

    fn schedule_tick(&mut self, host: usize) {
        if self.schedule.explored.is_some() {
            return;
        }
        let place = &mut self.hosts[host];
        let Some(process) = place.process.as_ref() else { return };
        let at = place.when(process.node.deadline()).max(self.now + 1);
        if let Some(process) = place.process.as_mut()
            && at < process.tick_at
        {
            process.tick_at = at;
            let id = process.id;
            self.local(at, host, id, Local::Tick);
        }
    }

    /// The live guest takes one input.
    fn guest_runs(&mut self, host: usize) {
        let done = self.hosts[host]
            .process
            .as_ref()
            .is_some_and(|process| process.guest.is_done() && !process.stop_due && !process.stopped);
        if done || self.now > self.schedule.end - QUIET_BEFORE_END {
            return;
        }
        let pace = if self.schedule.noise { self.random.between(2, 10) * MILLISECOND } else { 5 * MILLISECOND };
        self.local_now(host, pace + self.pause_after(host, pace), Local::GuestRun);
        let served_from_held = self.rules.reissue_before_run;
        let drawn = self.random.next();
        let place = &mut self.hosts[host];
        let Some(process) = place.process.as_mut() else { return };
        if !process.live || process.stopped || process.computes || process.share == Share::NONE {
            return;
        }
        if process.stop_due {
            self.stop_guest(host);
            return;
        }
        if process.newest() >= process.truncated.after(BUFFER_ENTRIES) {
            self.coverage.log_waits += 1;
            return;
        }
        let reads = matches!(process.guest.request(), GuestRequest::Read(_));
        if reads && std::mem::take(&mut place.read_fails) {
            process.read_failed = true;
            self.local_now(host, 0, Local::Input(Input::ReadFailed { reason: "an error".to_owned() }));
            return;
        }
        let role = process.node.role();
        if process.read_failed && role != Role::Alone && self.rules.failed_read_left_to_backup {
            return;
        }
        let value = match process.guest.request() {
            // No two hosts draw the same, even where nothing is left to chance.
            GuestRequest::Number => drawn ^ process.id,
            GuestRequest::Read(_) if std::mem::take(&mut process.read_failed) => {
                self.coverage.failed_reads_told += 1;
                let verdict = check_failed_read(role);
                if process.node.generation() == self.speaker.newest() && verdict.is_err() {
                    self.verdict(verdict);
                    return;
                }
                READ_FAILED
            }
            GuestRequest::Read(block) => {
                let held = process.held.values().rev().find(|output| output.destination == Destination::Block(block));
                let value = held.filter(|_| served_from_held).map_or(self.disk[block], |output| output.content);
                let verdict = check_read(&process.guest, block, value);
                // What an outdated primary reads reaches nobody: nothing that follows from it is released.
                if process.node.generation() == self.speaker.newest() && verdict.is_err() {
                    self.verdict(verdict);
                    return;
                }
                value
            }
        };
        let outputs = process.guest.take(value);
        process.entries.push(value);
        let through = process.guest.position;
        let computes_until = place.guest_computes_until;
        process.computes = computes_until > self.now;
        self.told_by_guest(host, Input::EntriesAppended { through });
        if computes_until > self.now {
            self.local_now(host, computes_until - self.now, Local::Computed { outputs });
        } else {
            self.guest_says(host, outputs);
        }
        self.stream(host);
    }

    fn guest_says(&mut self, host: usize, outputs: Vec<GuestOutput>) {
        if let Some(process) = self.hosts[host].process.as_mut() {
            process.held.extend(outputs.iter().map(|output| (output.index, *output)));
        }
        for output in outputs {
            self.told_by_guest(host, output.produced());
        }
    }

    /// Two managers, which know nothing of each other, want a backup for whoever runs the VM alone.
    fn manage(&mut self) {
        for host in 0..self.hosts.len() {
            let alone = |process: &Process| process.live && process.node.role() == Role::Alone;
            if self.hosts[host].process.as_ref().is_some_and(alone) {
                self.step(host, Input::BackupWanted);
                self.step(host, Input::BackupWanted);
            }
        }
        let pause = if self.schedule.noise { self.random.between(5, 40) * MILLISECOND } else { 20 * MILLISECOND };
        self.at(self.now + pause, Event::Managers);
    }

    /// How long the guest waits for having run so long, where it runs at all. In a walk it runs when it likes.
    fn pause_after(&self, host: usize, ran: u64) -> u64 {
        let share = self.hosts[host].process.as_ref().map_or(Share::WHOLE, |process| process.share);
        if share == Share::NONE || self.schedule.explored.is_some() {
            return 0;
        }
        share.pause_after(Duration::from_nanos(ran)).as_nanos() as u64
    }

    /// What must hold when all faults are over and what they made necessary is done.
    pub(super) fn check_settled(&self) -> Verdict {
        let mut alive = false;
        let newest = self.arbiter.newest();
        for host in &self.hosts {
            let Some(process) = &host.process else { continue };
            let node = &process.node;
            // Who cannot reach the arbiter cannot know.
            if host.arbiter_out_until.max(host.arbiter_hangs_until) <= self.now {
                check_owner(node.role(), node.generation(), node.incarnation(), newest)?;
            }
            let own = ArbiterRecord { generation: node.generation(), incarnation: node.incarnation() };
            let owns = newest == Some(own);
            if node.role().is_primary() && owns && process.held.is_empty() && process.share != Share::NONE {
                alive = true;
                check_final_disk(&process.guest, &self.disk)?;
            }
        }
        if self.schedule.rides_out {
            let roles = self.hosts.iter().filter_map(|host| host.process.as_ref()).map(|process| process.node.role());
            check_pair(roles.collect())?;
        }
        check_liveness(alive, self.fatal_faults, self.schedule.faults.len())
    }

    /// The arbiter's answer to this host, or silence.
    pub(super) fn ask_arbiter(&mut self, host: usize, request: u64, generation: Option<Generation>) {
        let now = self.now;
        let Some(process) = self.hosts[host].process.as_ref().map(|process| process.id) else { return };
        let place = &self.hosts[host];
        let (out, lost, late) = (place.arbiter_out_until, place.answers_lost_until, place.arbiter_late_until);
        let arrives = now + self.random.between(100_000, MILLISECOND);
        let asks = |request, at| {
            (at, Event::ArbiterAsk { host, process, request, generation: generation.unwrap_or(Generation::NONE) })
        };
        if place.arbiter_hangs_until > now {
            let at = place.arbiter_hangs_until;
            let event = match generation {
                Some(_) => asks(Some(request), at).1,
                None => Event::ArbiterRead { host, process, request },
            };
            self.at(at, event);
            return;
        }
        let silent = out > now || (generation.is_some() && (lost > now || late > now));
        if silent {
            let timeout = self.random.between(MILLISECOND, 50 * MILLISECOND);
            let input = match generation {
                Some(_) => Input::ArbiterAsked { request, result: AskResult::Unreachable },
                None => Input::ArbiterRead { request, result: ReadResult::Unreachable },
            };
            self.local(now + timeout, host, process, Local::Input(input));
            if generation.is_some() && out <= now {
                let (at, event) = asks(None, if late > now { late } else { arrives });
                self.at(at, event);
            }
        } else if generation.is_some() {
            let (at, event) = asks(Some(request), arrives);
            self.at(at, event);
        } else {
            self.at(arrives, Event::ArbiterRead { host, process, request });
        }
    }

    /// Whether this process still has the connection open.
    pub(super) fn is_open(&self, connection: usize, process: u64) -> bool {
        self.network.end_of(connection, process).is_some_and(|end| self.network.connections[connection].open[end])
    }
}
