//! Faults, and schedules of them drawn from a seed.

use super::random::Random;
use crate::protocol::{Timing, TimingConfig};

/// A millisecond of simulated time.
pub const MILLISECOND: u64 = 1_000_000;

/// Which paths of a directed link a cut concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Paths {
    /// The log session only: bytes wait, as TCP's do.
    Log,
    /// The heartbeat datagrams only: they are lost.
    Heartbeats,
    /// Both.
    All,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The process dies; its kernel closes the connections.
    Kill { host: usize },
    /// Whoever runs the VM dies as soon as it has a backup; a new process starts there when the fault is over.
    KillPrimary,
    /// The operator has whoever runs the VM hand it over to its backup, once it has one; a new process starts there when the fault is over.
    HandOver,
    /// The operator has whoever runs the VM let its backup go, once it has one; a new process starts there when the fault is over.
    LetBackupGo,
    /// What this host sends next of a guest's state is torn.
    StateTorn { host: usize },
    /// The host dies: nothing gets out any more.
    PowerOff { host: usize },
    /// A new process starts on a dead host.
    Restart { host: usize },
    /// The operator bootstraps a VM that exists already, on a host that runs nothing or a spare.
    Bootstrap { host: usize },
    /// The host stands still; its clock does not.
    Freeze { host: usize },
    /// The host stands still right after its next release check, before the output leaves.
    FreezeAtRelease { host: usize },
    /// What `from` sends to `to` does not arrive.
    Cut { from: usize, to: usize, paths: Paths },
    /// What `from` sends to `to` waits in a queue on the way, datagrams as well, and comes all at once.
    Backlog { from: usize, to: usize },
    /// The log connection is reset; each side hears of it on its own time.
    Reset { slow_host: usize },
    /// The arbiter is out of this host's reach.
    ArbiterOut { host: usize },
    /// Requests of this host are applied, their answers are lost.
    ArbiterAnswersLost { host: usize },
    /// Requests of this host time out, and are applied long after.
    ArbiterLate { host: usize },
    /// The arbiter answers this host's reads with what it held before, or with nothing.
    ArbiterStale { host: usize },
    /// This host's next block write fails.
    WriteFails { host: usize },
    /// The VM's devices cannot be opened on this host.
    DevicesGone { host: usize },
    /// This host's network interface refuses its next frame.
    FrameRefused { host: usize },
    /// This host's disk fails to read what its guest asks for next.
    ReadFails { host: usize },
    /// The guest traps on this host, and would on no other.
    GuestTraps { host: usize },
    /// This host cannot go on with the guest, live or in replay.
    HostFails { host: usize },
    /// The arbiter answers this host's requests when the fault is over, and not even a time-out comes before.
    ArbiterHangs { host: usize },
    /// This host's block writes take nearly as long as R19's bound allows.
    SlowWrites { host: usize },
    /// The guest on this host computes on what it takes in, and says nothing before the fault is over.
    GuestComputes { host: usize },
    /// Replay on this host stands still.
    ReplayStalls { host: usize },
    /// Replay on this host takes several times as long as its primary's guest.
    SlowReplay { host: usize },
    /// The thread of this host that lets outputs out stands still.
    SenderStalls { host: usize },
    /// A bit of this host's guest memory flips, while it replays.
    Diverge { host: usize },
    /// The same, and no entry shows it: what the guest takes in is the primary's.
    Corrupt { host: usize },
    /// A message of an old backup, in another life of the pair, reaches this host.
    Stray { host: usize },
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// When it begins, in nanoseconds of simulated time.
    pub at: u64,
    /// When it ends, for those that last.
    pub until: u64,
}

impl FaultKind {
    /// Whether the fault can cost the VM a node for good.
    pub fn kills(self) -> bool {
        matches!(
            self,
            FaultKind::Kill { .. }
                | FaultKind::KillPrimary
                | FaultKind::HandOver
                | FaultKind::LetBackupGo
                | FaultKind::PowerOff { .. }
                | FaultKind::WriteFails { .. }
                | FaultKind::FrameRefused { .. }
                | FaultKind::ReadFails { .. }
                | FaultKind::GuestTraps { .. }
                | FaultKind::HostFails { .. }
                | FaultKind::Diverge { .. }
                | FaultKind::Corrupt { .. }
        )
    }

    /// For how long a fault of this length can make one host silent to another; `None`: it can cost the pair a node whatever its length.
    fn silence(self, length: u64) -> Option<u64> {
        match self {
            FaultKind::Freeze { .. } | FaultKind::FreezeAtRelease { .. } | FaultKind::Backlog { .. } => Some(length),
            FaultKind::Cut { paths: Paths::Heartbeats, .. } => Some(0),
            FaultKind::Cut { .. } => Some(length),
            FaultKind::ArbiterOut { .. }
            | FaultKind::ArbiterAnswersLost { .. }
            | FaultKind::ArbiterLate { .. }
            | FaultKind::ArbiterHangs { .. }
            | FaultKind::SlowWrites { .. }
            | FaultKind::ReplayStalls { .. }
            | FaultKind::SlowReplay { .. }
            | FaultKind::GuestComputes { .. }
            | FaultKind::SenderStalls { .. }
            | FaultKind::StateTorn { .. }
            | FaultKind::Stray { .. } => Some(0),
            _ => None,
        }
    }
}

/// A run of the simulation: everything that is not in here follows from the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Seed of delays, losses, clocks and the guest's inputs.
    pub seed: u64,
    /// Number of hosts.
    pub hosts: usize,
    /// The faults, in the order of their beginning.
    pub faults: Vec<Fault>,
    /// When the run ends, in nanoseconds.
    pub end: u64,
    /// The faults are such that the pair has to be intact at the end.
    pub rides_out: bool,
    /// Whether clocks, delays and losses vary; a directed schedule may want them steady.
    pub noise: bool,
    /// Managers see to it that the VM has a backup again, and again.
    pub managed: bool,
    /// The first host is configured with ten times the others' lease and patience.
    pub terms_differ: bool,
    /// Nothing is left to chance or to a delay: `explore` says what happens next.
    pub explored: Option<Heartbeats>,
}

/// How a node in a small world sends heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeats {
    /// So many ways lead to the peer, beside the log.
    pub paths: u8,
    /// One in so many quarter leases.
    pub every: u32,
}

/// So much more silence than there is between two heartbeats, their delays included, makes nobody suspect anybody.
const RIDDEN_OUT: u64 = 80 * MILLISECOND;
/// All faults are over by then.
const HEALED_AT: u64 = 900 * MILLISECOND;
const END: u64 = 2_000 * MILLISECOND;

impl Schedule {
    /// A schedule of up to five faults on two or three hosts.
    pub fn random(seed: u64) -> Schedule {
        let mut random = Random::new(seed);
        let hosts = if random.once_in(5) { 3 } else { 2 };
        let count = random.between(0, 6);
        let mut faults: Vec<Fault> = (0..count).flat_map(|_| Fault::random(&mut random)).collect();
        faults.sort_by_key(|fault| fault.at);
        // Such a pair never forms, and tries nothing else.
        let terms_differ = random.once_in(500);
        let managed = random.once_in(2);
        let silence: Option<u64> = faults.iter().map(|fault| fault.kind.silence(fault.until - fault.at)).sum();
        let rides_out = !terms_differ && silence.is_some_and(|silence| silence <= RIDDEN_OUT);
        Schedule { seed, hosts, faults, end: END, rides_out, noise: true, managed, terms_differ, explored: None }
    }

    /// Three hosts, of which one loses the VM in these ways, one after the other, and comes back as a spare: the VM gets a new backup each time.
    pub fn chain(seed: u64, losses: &[FaultKind]) -> Schedule {
        let lose = |(kind, at): (&FaultKind, u64)| Fault::new(*kind, at, at + 300);
        let faults = losses.iter().zip((200..).step_by(600)).map(lose).collect();
        let end = (1_000 + 600 * losses.len() as u64) * MILLISECOND;
        Schedule { seed, hosts: 3, end, rides_out: true, noise: true, managed: true, ..Schedule::directed(faults) }
    }

    /// A schedule of these faults and no others, without noise.
    pub fn directed(faults: Vec<Fault>) -> Schedule {
        Schedule {
            seed: 1,
            hosts: 2,
            faults,
            end: END,
            rides_out: false,
            noise: false,
            managed: false,
            terms_differ: false,
            explored: None,
        }
    }

    /// Two hosts without end, for `explore`.
    pub fn explored(heartbeats: Heartbeats) -> Schedule {
        Schedule { end: u64::MAX, explored: Some(heartbeats), ..Schedule::directed(Vec::new()) }
    }

    /// The intervals that a host is configured with.
    pub fn timing(&self, host: usize) -> Timing {
        let mut config = TimingConfig::DEFAULT;
        if self.noise && self.seed.is_multiple_of(4) {
            // Short enough for handshakes to be given up.
            config.acknowledge_ms = 200;
        }
        if self.noise && self.seed % 4 == 1 {
            // Short enough for guests to be stalled.
            config.lag_ms = 1000;
        }
        if self.terms_differ && host == 0 {
            config.lease_ms *= 10;
            config.detect_ms *= 10;
        }
        let usual = Timing::from(config);
        if let Some(heartbeats) = self.explored {
            // In steps of a quarter lease, and no longer than the rules ask for: every step more is more to explore.
            let steps = |count| count * usual.lease / 4;
            let (detect, acknowledge, lag, grace) = (steps(5), steps(6), steps(10), steps(1));
            let heartbeat = steps(heartbeats.every);
            // Devices and arbiter are looked at once, and again where a candidate needs it.
            let check = steps(1 << 20);
            return Timing { heartbeat, detect, acknowledge, lag, grace, check, clock_error_ppm: 0, ..usual };
        }
        usual
    }
}

impl Fault {
    /// A fault between two moments, given in milliseconds.
    pub fn new(kind: FaultKind, at_ms: u64, until_ms: u64) -> Fault {
        Fault { kind, at: at_ms * MILLISECOND, until: until_ms * MILLISECOND }
    }

    /// One fault, or several that belong together.
    fn random(random: &mut Random) -> Vec<Fault> {
        // One in eight hits the forming of the pair.
        let at = if random.once_in(8) {
            random.between(0, 6 * MILLISECOND)
        } else {
            random.between(5 * MILLISECOND, 600 * MILLISECOND)
        };
        let length = if random.once_in(3) {
            random.between(MILLISECOND, 60 * MILLISECOND)
        } else {
            random.between(60 * MILLISECOND, 500 * MILLISECOND)
        };
        let until = (at + length).min(HEALED_AT);
        let host = random.between(0, 2) as usize;
        let other = 1 - host;
        let one = |kind| vec![Fault { kind, at, until }];
        let paths = match random.between(0, 3) {
            0 => Paths::Log,
            1 => Paths::Heartbeats,
            _ => Paths::All,
        };
        match random.between(0, 32) {
            0 => one(FaultKind::Kill { host }),
            1 => one(FaultKind::PowerOff { host }),
            2 => {
                let back = Fault { kind: FaultKind::Restart { host }, at: until, until };
                vec![Fault { kind: FaultKind::Kill { host }, at, until }, back]
            }
            3 => {
                let back = Fault { kind: FaultKind::Bootstrap { host: 1 }, at: until, until };
                vec![Fault { kind: FaultKind::Kill { host: 1 }, at, until }, back]
            }
            4 | 5 => one(FaultKind::Freeze { host }),
            6 => one(FaultKind::FreezeAtRelease { host }),
            7 | 8 => one(FaultKind::Cut { from: host, to: other, paths }),
            9 | 10 => {
                let back = Fault { kind: FaultKind::Cut { from: other, to: host, paths }, at, until };
                vec![Fault { kind: FaultKind::Cut { from: host, to: other, paths }, at, until }, back]
            }
            11 | 12 => one(FaultKind::Reset { slow_host: host }),
            13 => one(FaultKind::ArbiterOut { host }),
            14 => one(FaultKind::ArbiterHangs { host }),
            20 => vec![
                Fault { kind: FaultKind::ArbiterOut { host }, at, until },
                Fault { kind: FaultKind::ArbiterOut { host: other }, at, until },
            ],
            21 => one(FaultKind::Backlog { from: host, to: other }),
            22 => one(FaultKind::SenderStalls { host }),
            23 => one(FaultKind::ArbiterStale { host }),
            // Two operators bootstrap the VM at once, or one does it again.
            24 => {
                let at = random.between(0, 4 * MILLISECOND);
                vec![Fault { kind: FaultKind::Bootstrap { host: 1 }, at, until: at }]
            }
            25 => one(FaultKind::DevicesGone { host }),
            26 | 27 => one(FaultKind::KillPrimary),
            28 => one(FaultKind::StateTorn { host }),
            29 => one(FaultKind::HandOver),
            30 => one(FaultKind::LetBackupGo),
            31 => one(FaultKind::GuestComputes { host }),
            15 => one(FaultKind::ArbiterAnswersLost { host }),
            16 => one(FaultKind::ArbiterLate { host }),
            17 => {
                let kinds = [
                    FaultKind::WriteFails { host },
                    FaultKind::FrameRefused { host },
                    FaultKind::SlowWrites { host },
                    FaultKind::ReadFails { host },
                    FaultKind::GuestTraps { host },
                    FaultKind::HostFails { host },
                ];
                one(kinds[random.between(0, kinds.len() as u64) as usize])
            }
            18 => {
                let host = 1;
                let kinds =
                    [FaultKind::ReplayStalls { host }, FaultKind::SlowReplay { host }, FaultKind::Diverge { host }];
                one(kinds[random.between(0, kinds.len() as u64) as usize])
            }
            _ => one(FaultKind::Stray { host }),
        }
    }
}
