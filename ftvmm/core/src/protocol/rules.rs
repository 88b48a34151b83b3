//! Switches for the protocol's rules. Only tests switch one off: the simulation must then fail.

use std::str::FromStr;

use thiserror::Error;

macro_rules! rules {
    ($($(#[doc = $documentation:literal])+ $field:ident = $name:literal,)+) => {
        /// One switch for each rule, or half of a rule. All are on, outside of tests.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct Rules {
            $($(#[doc = $documentation])+ pub $field: bool,)+
        }

        impl Default for Rules {
            fn default() -> Rules {
                Rules { $($field: true,)+ }
            }
        }

        impl Rules {
            /// The names of all switches, as `without` takes them.
            pub const NAMES: &'static [&'static str] = &[$($name,)+];

            /// All rules but the named ones (for instance `R5-lease`).
            pub fn without<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Rules, UnknownRule> {
                let mut rules = Rules::default();
                for name in names {
                    match name {
                        $($name => rules.$field = false,)+
                        _ => return Err(UnknownRule(name.to_owned())),
                    }
                }
                Ok(rules)
            }
        }
    };
}

rules! {
    /// R1: a process start gives no role; what an earlier process was is not believed.
    fresh_start = "R1",
    /// R2: a generation that exists is not taken for one's own bootstrap.
    atomic_bootstrap = "R2",
    /// R3: a message of another VM, generation, incarnation or session counts for nothing.
    message_identity = "R3",
    /// R5: an output waits for the acknowledgement of the entries it depends on.
    output_acknowledged = "R5-acknowledgement",
    /// R5: an output waits for a lease.
    output_lease = "R5-lease",
    /// R5: the released mark advances only when the output has completed well.
    output_completed = "R5-completion",
    /// R5: outputs are released in order.
    output_order = "R5-order",
    /// R6: only whole, contiguous entries are acknowledged.
    whole_entries = "R6",
    /// R7: a peer lives as long as it echoes what this node has said of late; what else it says may be old.
    suspect_two_way = "R7-two-way",
    /// R7: entries that stay unacknowledged make the primary suspect its backup.
    suspect_unacknowledged = "R7-acknowledge",
    /// R7: a backup whose replay lags for too long is suspected by its primary.
    suspect_lag = "R7-lag",
    /// R7: a node that was paused drains its sockets before it judges, and does not count that time as its peer's silence.
    drain_after_pause = "R7-paused",
    /// R7: a diverged backup halts.
    diverged_halts = "R7-diverged",
    /// R8: a node asks for its own generation's successor only.
    own_generation = "R8",
    /// R9: a candidate says nothing more.
    silent_candidate = "R9",
    /// R9: a candidate replays to the end of its log before it asks.
    drained_before_ask = "R9-drain",
    /// R10: a candidate waits the primary's lease out.
    lease_waited_out = "R10",
    /// R11: an unclear answer of the arbiter is settled by reading.
    settle_by_reading = "R11",
    /// R12: while the arbiter is out of reach, primary and backup may find each other again.
    resume_session = "R12",
    /// R13: COMMIT waits until every output before the joiner's state has completed.
    outputs_before_state = "R13",
    /// R14: a joiner becomes the backup only in the very state in which the guest was stopped.
    state_compared = "R14-state",
    /// R14: the primary holds outputs before it sends COMMIT.
    protected_before_commit = "R14",
    /// R15: after COMMIT the primary is alone again only by winning the arbiter.
    one_commit = "R15",
    /// R16: the winner re-issues the outputs that may not have left.
    reissue = "R16-reissue",
    /// R16: the loser halts.
    loser_halts = "R16-loser",
    /// R17: re-issued writes complete before the guest runs.
    reissue_before_run = "R17",
    /// R17: a protected primary whose disk does not read leaves the VM to its backup, and tells the guest nothing.
    failed_read_left_to_backup = "R17-read",
    /// R17: a trap that only the primary has come to is not the guest's end yet: replay shows whether it is.
    trap_left_to_backup = "R17-trap",
    /// R19: a takeover waits until no write of the old primary can land any more.
    writes_waited_out = "R19",
    /// R21: a primary hands the VM over when all its outputs have completed.
    handed_over_completed = "R21-completion",
    /// R21: a primary that has handed the VM over says nothing more.
    handed_over_silent = "R21-silent",
    /// R24: a candidate asks only with NIC and disk open and just checked.
    devices_before_ask = "R24",
}

/// A rule switch that does not exist.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no rule switch {0:?}")]
pub struct UnknownRule(pub String);

impl FromStr for Rules {
    type Err = UnknownRule;

    /// Parses a comma-separated list of the rules that are off; empty means that all are on.
    fn from_str(text: &str) -> Result<Rules, UnknownRule> {
        Rules::without(text.split(',').map(str::trim).filter(|name| !name.is_empty()))
    }
}
