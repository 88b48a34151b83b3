//! A host: its clock, and the process on it that does what the state machine says.

use std::collections::BTreeMap;

use super::guest::{Guest, GuestOutput};
use super::world::Event;
use crate::protocol::{Instant, LogPosition, Node, OutputIndex, Remembered, Share};

/// A process: the state machine, and what a node's threads keep.
#[derive(Clone, Hash)]
pub struct Process {
    /// Number of the process, never used twice; also its incarnation.
    pub id: u64,
    /// The code under test.
    pub node: Node,
    /// The guest, live or in replay.
    pub guest: Guest,
    /// The guest runs live.
    pub live: bool,
    /// For how much of its time the guest may run.
    pub share: Share,
    /// The guest computes on what it has taken in last.
    pub computes: bool,
    /// The guest waits for what its disk failed to read.
    pub read_failed: bool,
    /// The log, from position 1 on.
    pub entries: Vec<u64>,
    /// Primary: entries up to here take up no room any more.
    pub truncated: LogPosition,
    /// Backup: the log is closed at this position.
    pub closed_at: Option<LogPosition>,
    /// Backup: replay has begun.
    pub replaying: bool,
    pub replay_due: bool,
    /// Outputs produced and not known to have completed.
    pub held: BTreeMap<OutputIndex, GuestOutput>,
    /// Outputs up to here need not be held.
    pub forgotten: OutputIndex,
    /// The VM's devices are open.
    pub devices_open: bool,
    /// An output is between its check and its completion.
    pub emitting: bool,
    /// When the state machine hears the last of what the guest's thread has told it.
    pub told_at: u64,
    /// Primary: the connection that entries go to, and the next one to send.
    pub stream: Option<(u64, LogPosition)>,
    /// The next tick that is on its way.
    pub tick_at: u64,
    /// Primary: the log connection of the joiner that the guest's state goes to.
    pub copying: Option<u64>,
    /// Primary: the memory is copied, and the guest stops at its next input.
    pub stop_due: bool,
    /// Primary: the guest waits for COMMIT.
    pub stopped: bool,
    /// Joiner: what it was given, guest and log.
    pub restored: Option<(Guest, Vec<u64>)>,
}

impl Process {
    pub fn new(id: u64, node: Node) -> Process {
        Process {
            id,
            node,
            guest: Guest::default(),
            live: false,
            share: Share::WHOLE,
            computes: false,
            read_failed: false,
            entries: Vec::new(),
            truncated: LogPosition::START,
            closed_at: None,
            replaying: false,
            replay_due: false,
            held: BTreeMap::new(),
            forgotten: OutputIndex::NONE,
            devices_open: false,
            emitting: false,
            told_at: 0,
            stream: None,
            tick_at: u64::MAX,
            copying: None,
            stop_due: false,
            stopped: false,
            restored: None,
        }
    }

    /// Position of the newest entry in the log.
    pub fn newest(&self) -> LogPosition {
        LogPosition(self.entries.len() as u64)
    }
}

/// A host.
#[derive(Clone, Hash)]
pub struct Host {
    pub process: Option<Process>,
    /// Without power nothing gets out, not even the end of a connection.
    pub powered: bool,
    /// What its last process was.
    pub remembered: Option<Remembered>,
    /// Offset and relative error of the clock.
    pub clock_offset: u64,
    pub clock_error_ppm: i64,
    pub frozen_until: u64,
    /// What waits for a frozen host.
    pub backlog: Vec<Event>,
    pub freeze_at_release_until: Option<u64>,
    pub arbiter_out_until: u64,
    pub answers_lost_until: u64,
    pub arbiter_late_until: u64,
    pub arbiter_hangs_until: u64,
    pub arbiter_stale_until: u64,
    pub slow_writes_until: u64,
    pub write_fails: bool,
    /// What this host sends next of a guest's state is another one.
    pub state_torn: bool,
    pub frame_refused: bool,
    pub read_fails: bool,
    pub devices_gone_until: u64,
    pub guest_computes_until: u64,
    pub replay_stalled_until: u64,
    pub slow_replay_until: u64,
    pub sender_stalled_until: u64,
}

impl Host {
    pub fn new(clock_offset: u64, clock_error_ppm: i64) -> Host {
        Host {
            process: None,
            powered: true,
            remembered: None,
            clock_offset,
            clock_error_ppm,
            frozen_until: 0,
            backlog: Vec::new(),
            freeze_at_release_until: None,
            arbiter_out_until: 0,
            answers_lost_until: 0,
            arbiter_late_until: 0,
            arbiter_hangs_until: 0,
            arbiter_stale_until: 0,
            slow_writes_until: 0,
            write_fails: false,
            state_torn: false,
            frame_refused: false,
            read_fails: false,
            devices_gone_until: 0,
            guest_computes_until: 0,
            replay_stalled_until: 0,
            slow_replay_until: 0,
            sender_stalled_until: 0,
        }
    }

    /// Until when each fault of the host lasts.
    pub fn moments(&mut self) -> impl Iterator<Item = &mut u64> {
        let arbiter = [&mut self.arbiter_out_until, &mut self.answers_lost_until];
        let late = [&mut self.arbiter_late_until, &mut self.arbiter_hangs_until, &mut self.arbiter_stale_until];
        let own = [&mut self.frozen_until, &mut self.slow_writes_until, &mut self.guest_computes_until];
        let replay = [&mut self.replay_stalled_until, &mut self.slow_replay_until];
        let threads = [&mut self.sender_stalled_until, &mut self.devices_gone_until];
        let host = own.into_iter().chain(replay).chain(threads).chain(self.freeze_at_release_until.as_mut());
        arbiter.into_iter().chain(late).chain(host)
    }

    /// What the host's clock shows.
    pub fn clock(&self, now: u64) -> Instant {
        let error = i128::from(now) * i128::from(self.clock_error_ppm) / 1_000_000;
        Instant((i128::from(now) + error) as u64 + self.clock_offset)
    }

    /// When the host's clock shows at least this.
    pub fn when(&self, local: Instant) -> u64 {
        let shown = i128::from(local.0.saturating_sub(self.clock_offset));
        (shown * 1_000_000 / (1_000_000 + i128::from(self.clock_error_ppm))) as u64 + 2
    }
}
