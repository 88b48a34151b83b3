//! What the schedules made happen: a simulation that never failed over has shown nothing.

use std::fmt;

macro_rules! coverage {
    ($($(#[doc = $documentation:literal])+ $field:ident,)+) => {
        /// How often each thing happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Coverage {
            $($(#[doc = $documentation])+ pub $field: u64,)+
        }

        impl Coverage {
            /// Adds another run's counts.
            pub fn add(&mut self, other: &Coverage) {
                $(self.$field += other.$field;)+
            }

            /// The counters that are still zero.
            pub fn missing(&self) -> Vec<&'static str> {
                let mut missing = Vec::new();
                $(if self.$field == 0 { missing.push(stringify!($field)); })+
                missing
            }
        }

        impl fmt::Display for Coverage {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(formatter, "  {:>10}  {}", self.$field, stringify!($field).replace('_', " "))?;)+
                Ok(())
            }
        }
    };
}

coverage! {
    /// State machine steps.
    steps,
    /// Pairs that formed.
    pairs_formed,
    /// Outputs that left.
    outputs_emitted,
    /// Backups that went live.
    failovers,
    /// Primaries that won and went on alone.
    primaries_alone,
    /// Nodes that lost the arbiter.
    arbitrations_lost,
    /// Arbiter answers that did not come.
    arbiter_unreachable,
    /// Outputs held back although acknowledged, for want of a lease.
    lease_expired,
    /// Takeovers that re-issued outputs.
    reissues,
    /// Sessions resumed after a suspicion.
    sessions_resumed,
    /// Nodes that noticed that they had been paused.
    pauses_noticed,
    /// Guests that were slowed to the pace of replay.
    guests_slowed,
    /// Guests that waited for replay.
    guest_stalls,
    /// Times that a guest waited for room in its log.
    log_waits,
    /// Outputs that left after a freeze between check and emission.
    late_emissions,
    /// Bootstraps of a VM that exists.
    bootstraps_refused,
    /// Nodes that a primary of other terms halted.
    terms_refused,
    /// Divergences found.
    divergences,
    /// Nodes that a failed write halted.
    failed_writes,
    /// Checks that found devices which cannot be used.
    devices_missed,
    /// Frames that a network interface refused.
    frames_refused,
    /// Nodes whose hosts could not go on with the guest.
    hosts_failed,
    /// Guests that were told that their disk did not read.
    failed_reads_told,
    /// Datagrams that were sent once and came twice.
    datagrams_twice,
    /// Reads of the arbiter that told what it had held before.
    stale_reads,
    /// Joiners that were committed to with the state of a guest that ran.
    states_carried,
    /// Guests that computed for long before they said anything.
    late_outputs,
    /// Primaries that handed their VM over.
    hand_overs,
    /// Backups that took a VM over that was handed to them.
    hand_overs_taken,
    /// Primaries that let their backup go.
    backups_let_go,
    /// What the operator wanted of a pair and did not get.
    plans_given_up,
    /// Transfers of a guest's state that were given up.
    transfers_given_up,
    /// States that went over other than they were.
    states_torn,
    /// Handshakes that were given up.
    handshakes_given_up,
    /// Outputs that waited for a thread that stood still.
    sender_stalls,
    /// Pairs that had to come through whole.
    pairs_to_keep,
}
