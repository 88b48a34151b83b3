//! The node's clock as the protocol sees it, and the intervals that the protocol is configured with.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A reading of this node's `CLOCK_BOOTTIME`, in nanoseconds. Readings of two nodes are never compared with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

/// A kind of number that grows for ever, and means something only beside others of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Number {
    /// A reading of this node's clock, or a stamp of the peer's; 0 is none.
    Time,
    /// A moment of this node's clock that is waited for; once it is past, how long it is does not matter.
    Deadline,
    /// Counts the messages of this incarnation.
    Sequence(u64),
    /// Counts the requests of this incarnation.
    Request(u64),
}

impl Instant {
    /// Time passed since `earlier`; zero if `earlier` is not earlier.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This reading plus `duration`.
    pub fn after(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The intervals of the protocol (R7, R10, R19, R20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// How often the primary sends a heartbeat on every path.
    pub heartbeat: Duration,
    /// How long an echoed stamp entitles the primary to speak (LEASE).
    pub lease: Duration,
    /// Silence after which the peer is suspected (DETECT).
    pub detect: Duration,
    /// Age of the oldest unacknowledged entry at which the backup is suspected (T_ACK).
    pub acknowledge: Duration,
    /// For how long the backup may hold an entry that it has not replayed, before it is suspected (T_LAG). The guest is slowed and stalled
    /// at fractions of it (R26).
    pub lag: Duration,
    /// How long the primary waits between suspecting its backup and asking the arbiter; below `lease` (R10).
    pub grace: Duration,
    /// Bound within which a disk write completes after its release check (W of R19).
    pub write_bound: Duration,
    /// Pause between two attempts to reach an arbiter that is out of reach, and between two attempts to dial.
    pub retry: Duration,
    /// Pause between two checks of the devices that a takeover needs, and how old one may be when the arbiter is asked (R24).
    pub check: Duration,
    /// Largest relative error of a node's clock, in millionths (rho of R20: at most 1000).
    pub clock_error_ppm: u32,
}

/// The intervals that a configuration gives, in milliseconds; both nodes have the same ones (R20).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimingConfig {
    /// period of the heartbeat
    pub heartbeat_ms: u64,
    /// how long an answer entitles the primary to release
    pub lease_ms: u64,
    /// silence after which a peer is suspected
    pub detect_ms: u64,
    /// T_ACK: age of the oldest unacknowledged entry
    pub acknowledge_ms: u64,
    /// T_LAG: for how long the backup may hold an entry that it has not replayed
    pub lag_ms: u64,
    /// W of R19: within what a disk write completes after its release check
    pub write_bound_ms: u64,
}

impl TimingConfig {
    /// What a configuration that says nothing means; Python has it as `ftvmm._core.TIMING`.
    pub const DEFAULT: TimingConfig = TimingConfig {
        heartbeat_ms: 50,
        lease_ms: 100,
        detect_ms: 150,
        acknowledge_ms: 1000,
        lag_ms: 2000,
        write_bound_ms: 50,
    };
}

impl From<TimingConfig> for Timing {
    fn from(config: TimingConfig) -> Timing {
        let milliseconds = Duration::from_millis;
        let lease = milliseconds(config.lease_ms);
        Timing {
            heartbeat: milliseconds(config.heartbeat_ms),
            lease,
            detect: milliseconds(config.detect_ms),
            acknowledge: milliseconds(config.acknowledge_ms),
            lag: milliseconds(config.lag_ms),
            write_bound: milliseconds(config.write_bound_ms),
            // In proportion, so that a pair on slow hosts does not look at its arbiter and its disk more often than it can.
            grace: lease / 5,
            retry: lease / 2,
            check: lease * 10,
            clock_error_ppm: Timing::CLOCK_ERROR_PPM,
        }
    }
}

impl Default for Timing {
    fn default() -> Timing {
        Timing::from(TimingConfig::DEFAULT)
    }
}

impl Timing {
    /// The largest clock error that the protocol was checked for, and what is assumed (R20).
    const CLOCK_ERROR_PPM: u32 = 1000;
    /// T_LAG is at least so many heartbeats.
    const HEARTBEATS_IN_LAG: u32 = 20;

    /// `duration · (1 + 2ρ)`: so long by this clock is at least `duration` by any other (R10).
    pub fn stretched(&self, duration: Duration) -> Duration {
        let nanoseconds = duration.as_nanos() * (1_000_000 + 2 * u128::from(self.clock_error_ppm));
        Duration::from_nanos(u64::try_from(nanoseconds.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// Refuses intervals with which the protocol's promises would not hold (R10, R20).
    pub fn validate(&self) -> Result<(), TimingError> {
        if self.clock_error_ppm > Timing::CLOCK_ERROR_PPM {
            return Err(TimingError::ClockError(self.clock_error_ppm));
        }
        if self.stretched(self.lease) >= self.detect {
            return Err(TimingError::LeaseNotBelowDetect);
        }
        if self.heartbeat >= self.lease {
            return Err(TimingError::HeartbeatNotBelowLease);
        }
        if self.grace >= self.lease {
            return Err(TimingError::GraceNotBelowLease);
        }
        if self.write_bound < self.heartbeat {
            return Err(TimingError::WriteBoundBelowHeartbeat);
        }
        if self.heartbeat.is_zero() || self.retry.is_zero() {
            return Err(TimingError::ZeroInterval);
        }
        if self.lag < self.heartbeat * Timing::HEARTBEATS_IN_LAG {
            return Err(TimingError::LagBelowHeartbeats);
        }
        Ok(())
    }
}

/// Intervals that the protocol refuses.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TimingError {
    /// The assumed clock error is above what the protocol was checked for.
    #[error("clock error of {0} ppm is above {max} ppm", max = Timing::CLOCK_ERROR_PPM)]
    ClockError(u32),
    /// R20: the lease, stretched by the clock error, must end before a silent peer is suspected.
    #[error("lease_ms, stretched by the clock error, must be below detect_ms (rule R20)")]
    LeaseNotBelowDetect,
    /// A lease that ends between two heartbeats would expire all the time.
    #[error("heartbeat_ms must be below lease_ms, or the lease runs out between two heartbeats")]
    HeartbeatNotBelowLease,
    /// R10: a live primary asks before its backup may.
    #[error("the grace of a candidate must be below lease_ms")]
    GraceNotBelowLease,
    /// R19: no disk is sure to write faster than a node says that it lives.
    #[error("write_bound_ms must not be below heartbeat_ms")]
    WriteBoundBelowHeartbeat,
    /// An interval of zero would make the node spin.
    #[error("heartbeat_ms and the interval of retries must not be zero")]
    ZeroInterval,
    /// R26: how far replay has come is heard with each heartbeat at the latest; a backup that keeps up must not look as if it lagged.
    #[error("lag_ms must not be below {count} times heartbeat_ms (rule R26)", count = Timing::HEARTBEATS_IN_LAG)]
    LagBelowHeartbeats,
}
