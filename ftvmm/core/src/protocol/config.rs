//! What a node's protocol is configured with.

use super::rules::Rules;
use super::time::Timing;
use crate::determinism;
use crate::machine::HostKind;

/// Configuration of one node's state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// The VM's UUID; a bootstrap makes a fresh one (R2).
    pub vm: [u8; 16],
    /// Digest of image and machine configuration: both nodes must run the same machine.
    pub digest: [u8; 32],
    /// This host, as far as the other one has to be alike.
    pub host: HostKind,
    /// The protocol's intervals.
    pub timing: Timing,
    /// How many heartbeat (UDP) paths lead to the peer, beside the log session.
    pub heartbeat_paths: u8,
    /// The rules in force; all of them, outside of tests.
    pub rules: Rules,
}

impl Config {
    /// A configuration with default intervals, two heartbeat paths and every rule on.
    pub fn new(vm: [u8; 16], digest: [u8; 32]) -> Config {
        Config {
            vm,
            digest,
            host: HostKind::default(),
            timing: Timing::default(),
            heartbeat_paths: 2,
            rules: Rules::default(),
        }
    }

    /// What the peer must be configured with alike.
    pub fn terms(&self) -> Terms {
        let timing = &self.timing;
        let intervals =
            [timing.heartbeat, timing.lease, timing.detect, timing.acknowledge, timing.lag, timing.write_bound];
        let mut bounds = [0; Terms::BOUNDS.len()];
        for (bound, interval) in bounds.iter_mut().zip(intervals) {
            *bound = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        }
        bounds[intervals.len()] = u64::from(timing.clock_error_ppm);
        Terms { digest: self.digest, determinism_pass: determinism::VERSION, host: self.host, bounds }
    }
}

/// What both nodes of a pair must be configured with alike, as `Hello` and `Welcome` say it: each relies on the other's lease, silence
/// and write bound (R7, R10, R19), so two nodes that differ would both speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Digest of image and machine configuration.
    pub digest: [u8; 32],
    /// Version of the pass that rewrites the image.
    pub determinism_pass: u32,
    /// The host, as far as the image's results depend on it.
    pub host: HostKind,
    /// The bounds in the order of [`Terms::BOUNDS`]: intervals in nanoseconds, the clock error in millionths.
    pub bounds: [u64; Terms::BOUNDS.len()],
}

impl Terms {
    /// What the configuration calls each bound, and how many of its own units make one of the configuration's.
    pub const BOUNDS: [(&'static str, f64); 7] = [
        ("heartbeat_ms", 1e6),
        ("lease_ms", 1e6),
        ("detect_ms", 1e6),
        ("acknowledge_ms", 1e6),
        ("lag_ms", 1e6),
        ("write_bound_ms", 1e6),
        ("clock_error_ppm", 1.0),
    ];

    /// In what the peer's terms differ, by name; `None`: in nothing.
    pub fn difference(&self, peer: &Terms) -> Option<String> {
        if self.determinism_pass != peer.determinism_pass {
            let (own, theirs) = (self.determinism_pass, peer.determinism_pass);
            return Some(format!("the peer's determinism pass has version {theirs}, and version {own} here"));
        }
        if self.digest != peer.digest {
            return Some("the peer runs another image or machine configuration".to_owned());
        }
        if self.host != peer.host {
            let (own, theirs) = (self.host, peer.host);
            let what = "hosts are to be alike in what the image's results depend on (`ftvmm verify`, vm.mixed_hosts)";
            return Some(format!("{what}: {theirs} at the peer and {own} here"));
        }
        let pairs = Terms::BOUNDS.iter().zip(self.bounds.iter().zip(&peer.bounds));
        let differences: Vec<String> = pairs
            .filter(|(_, (own, theirs))| own != theirs)
            .map(|((name, unit), (own, theirs))| {
                format!("{name} is {} at the peer and {} here", *theirs as f64 / unit, *own as f64 / unit)
            })
            .collect();
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}
