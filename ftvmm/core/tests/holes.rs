//! The holes that the protocol's model found (H1 to H16, H25), each as the schedules that walk into it: with the rules they end well, without the
//! rule that closes the hole one of them breaks a promise. H3 (a write of an earlier life of a node, under `scsi-pr`) comes with R18: the
//! fence is not there yet.

use _core::protocol::Rules;
use _core::simulation::{Fault, FaultKind, MILLISECOND, Paths, Schedule, run_schedule};

/// For ever, as seen from a schedule.
const NEVER: u64 = 1_000_000;

fn closes(rule: &str, schedules: impl Iterator<Item = Schedule>) {
    let without = Rules::without([rule]).unwrap();
    let mut broken = 0;
    let mut tried = 0;
    for schedule in schedules {
        let with = run_schedule(&schedule, Rules::default());
        assert!(with.is_ok(), "with every rule: {with:?} under {schedule:?}");
        broken += usize::from(run_schedule(&schedule, without).is_err());
        tried += 1;
    }
    assert!(broken > 0, "none of {tried} schedules needs {rule}");
}

/// The schedule, its faults begun at every one of these moments (milliseconds).
fn swept(moments: impl Iterator<Item = u64>, faults: impl Fn(u64) -> Vec<Fault>) -> impl Iterator<Item = Schedule> {
    moments.map(move |at| Schedule::directed(faults(at)))
}

fn moments() -> impl Iterator<Item = u64> {
    (100..300).step_by(7)
}

/// Nothing passes between the two hosts.
fn partition(at: u64, until: u64) -> [Fault; 2] {
    [(0, 1), (1, 0)].map(|(from, to)| Fault::new(FaultKind::Cut { from, to, paths: Paths::All }, at, until))
}

/// The backup hears at once that the session is reset, the primary much later.
fn reset(at: u64) -> Fault {
    Fault::new(FaultKind::Reset { slow_host: 0 }, at, at + 400)
}

/// The primary has acknowledged outputs left to emit, one slow write after the other, and does not hear of the reset.
fn reset_with_outputs_waiting(at: u64) -> Vec<Fault> {
    vec![Fault::new(FaultKind::SlowWrites { host: 0 }, at - 90, at + 400), reset(at)]
}

#[test]
fn h1_a_candidate_waits_until_the_primary_may_no_longer_speak() {
    closes("R10", swept(moments(), reset_with_outputs_waiting));
}

#[test]
fn h2_a_candidate_no_longer_renews_the_lease() {
    closes("R9", swept(moments(), reset_with_outputs_waiting));
}

#[test]
fn h4_a_refused_write_is_not_released() {
    closes("R5-completion", swept(moments(), |at| vec![Fault::new(FaultKind::WriteFails { host: 0 }, at, at)]));
}

/// The backup's interface may take what the primary's refuses; where there is no backup, nobody can.
#[test]
fn a_refused_frame_is_not_released() {
    closes("R5-completion", swept(moments(), |at| vec![Fault::new(FaultKind::FrameRefused { host: 0 }, at, at)]));
    for schedule in swept(moments(), |at| {
        vec![
            Fault::new(FaultKind::Kill { host: 1 }, at, at),
            Fault::new(FaultKind::FrameRefused { host: 0 }, at + 400, at),
        ]
    }) {
        let coverage = run_schedule(&schedule, Rules::default()).unwrap();
        assert_eq!((coverage.primaries_alone, coverage.frames_refused, coverage.failovers), (1, 1, 0));
    }
}

/// A flipped bit in the primary's memory looks like a fault of the guest's: no farewell is said for it.
#[test]
fn a_trap_on_one_host_leaves_the_vm_to_the_other() {
    closes("R17-trap", swept(moments(), |at| vec![Fault::new(FaultKind::GuestTraps { host: 0 }, at, at)]));
}

/// The backup's disk may read what the primary's does not; where there is no backup, the guest is told.
#[test]
fn a_read_that_fails_on_one_host_is_read_on_the_other() {
    closes("R17-read", swept(moments(), |at| vec![Fault::new(FaultKind::ReadFails { host: 0 }, at, at)]));
    for schedule in swept(moments(), |at| {
        vec![
            Fault::new(FaultKind::Kill { host: 1 }, at, at),
            Fault::new(FaultKind::ReadFails { host: 0 }, at + 400, at),
        ]
    }) {
        let coverage = run_schedule(&schedule, Rules::default()).unwrap();
        assert_eq!((coverage.primaries_alone, coverage.failed_reads_told, coverage.hosts_failed), (1, 1, 0));
    }
}

#[test]
fn a_host_that_fails_leaves_the_vm_to_the_other() {
    for (host, expected) in [(0, (1, 0)), (1, (0, 1))] {
        for schedule in swept(moments(), |at| vec![Fault::new(FaultKind::HostFails { host }, at, at)]) {
            let coverage = run_schedule(&schedule, Rules::default()).unwrap();
            assert_eq!((coverage.failovers, coverage.primaries_alone), expected);
        }
    }
}

#[test]
fn h5_outputs_are_held_before_the_joiner_can_be_a_backup() {
    let schedules = (10..50).map(|tenth| {
        let at = tenth * MILLISECOND / 10;
        let cut =
            |from, to, at| Fault { kind: FaultKind::Cut { from, to, paths: Paths::All }, at, until: 400 * MILLISECOND };
        Schedule::directed(vec![cut(1, 0, at), cut(0, 1, at + MILLISECOND)])
    });
    closes("R14", schedules);
}

#[test]
fn h6_a_join_is_given_up_only_by_winning_the_arbiter() {
    let schedules = (10..80).map(|tenth| {
        let at = tenth * MILLISECOND / 10;
        let until = at + 300 * MILLISECOND;
        Schedule::directed(vec![
            Fault { kind: FaultKind::Cut { from: 1, to: 0, paths: Paths::All }, at, until },
            Fault { kind: FaultKind::Reset { slow_host: 1 }, at: at + MILLISECOND, until: at + 5 * MILLISECOND },
        ])
    });
    closes("R15", schedules);
}

/// Its backup dies and comes back as a spare; the VM, which runs alone meanwhile, is to have it for its backup again. The state goes over from 100 ms
/// on, for some ten.
fn renewed(faults: impl IntoIterator<Item = Fault>) -> Schedule {
    let lost = [Fault::new(FaultKind::Kill { host: 1 }, 50, 50), Fault::new(FaultKind::Restart { host: 1 }, 100, 100)];
    let faults = lost.into_iter().chain(faults).collect();
    Schedule { managed: true, ..Schedule::directed(faults) }
}

/// Writes that the guest takes for done are still on their way when it is copied, and are lost with their host.
#[test]
fn h7_what_the_guest_has_said_before_its_state_goes_over_has_left() {
    let schedules = (100..200).map(|at| {
        let slow = Fault::new(FaultKind::SlowWrites { host: 0 }, 80, at + 400);
        renewed([slow, Fault::new(FaultKind::PowerOff { host: 0 }, at, at)])
    });
    closes("R13", schedules);
}

#[test]
fn a_torn_state_makes_nobody_a_backup() {
    let schedules = (100..400).step_by(3).map(|at| {
        let torn = Fault::new(FaultKind::StateTorn { host: 0 }, 0, 0);
        renewed([torn, Fault::new(FaultKind::PowerOff { host: 0 }, at, at)])
    });
    closes("R14-state", schedules);
}

#[test]
fn a_vm_survives_its_host_again_and_again() {
    for seed in 0..50 {
        let coverage = run_schedule(&Schedule::chain(seed, &[FaultKind::KillPrimary; 20]), Rules::default());
        let coverage = coverage.unwrap_or_else(|violation| panic!("seed {seed}: {violation:?}"));
        assert_eq!((coverage.failovers, coverage.states_carried >= 20), (20, true), "seed {seed}");
    }
}

/// Handed over and left alone in turns, the VM gets a new backup each time.
#[test]
fn a_vm_goes_from_host_to_host_as_its_operator_wants() {
    let wanted = [FaultKind::HandOver, FaultKind::LetBackupGo].repeat(5);
    for seed in 0..50 {
        let coverage = run_schedule(&Schedule::chain(seed, &wanted), Rules::default());
        let coverage = coverage.unwrap_or_else(|violation| panic!("seed {seed}: {violation:?}"));
        let counts = (coverage.hand_overs_taken, coverage.backups_let_go, coverage.plans_given_up);
        assert_eq!((counts, coverage.states_carried >= 9), ((5, 5, 0), true), "seed {seed}");
    }
}

/// The backup that is handed the VM waits for no lease and for no late write.
#[test]
fn a_vm_is_handed_over_when_all_its_outputs_have_completed() {
    let schedules = moments().map(|at| {
        let slow = Fault::new(FaultKind::SlowWrites { host: 0 }, 80, at + 400);
        Schedule::directed(vec![slow, Fault::new(FaultKind::HandOver, at, at)])
    });
    closes("R21-completion", schedules);
}

/// Nor is one on its way of which the guest's thread, interrupted, has not told.
#[test]
fn a_vm_is_handed_over_when_all_its_outputs_are_known() {
    for seed in 0..4000 {
        let at = 100 + seed % 200;
        let faults =
            vec![Fault::new(FaultKind::SlowWrites { host: 0 }, at - 5, 700), Fault::new(FaultKind::HandOver, at, 700)];
        let schedule = Schedule { seed, noise: true, ..Schedule::directed(faults) };
        let coverage = run_schedule(&schedule, Rules::default());
        assert!(coverage.is_ok(), "seed {seed}: {coverage:?}");
    }
}

/// Its devices come back before the primary hears of the reset, or after: somebody goes on in either case.
#[test]
fn a_candidate_that_cannot_attach_does_not_ask() {
    let schedules = moments().flat_map(|at| {
        [at + 200, at + 600]
            .map(|until| Schedule::directed(vec![Fault::new(FaultKind::DevicesGone { host: 1 }, 0, until), reset(at)]))
    });
    closes("R24", schedules);
}

#[test]
fn h8_the_released_mark_waits_for_the_completion() {
    let schedules = swept(moments(), |at| {
        let freeze = Fault::new(FaultKind::FreezeAtRelease { host: 0 }, at, at + 400);
        vec![freeze, Fault::new(FaultKind::PowerOff { host: 0 }, at + 100, at + 100)]
    });
    closes("R5-completion", schedules);
}

#[test]
fn h9_a_part_of_an_entry_is_not_acknowledged() {
    let schedules = (0..4000).map(|seed| {
        let at = (100 + seed % 100) * MILLISECOND + seed * 7_919;
        let fault = Fault { kind: FaultKind::Reset { slow_host: 0 }, at, until: at + 300 * MILLISECOND };
        Schedule { seed, noise: true, ..Schedule::directed(vec![fault]) }
    });
    closes("R6", schedules);
}

#[test]
fn h10_a_dropped_backup_does_not_claim_a_generation_beside_the_primary() {
    closes("R8", swept(moments(), |at| partition(at, at + 400).to_vec()));
}

#[test]
fn h11_a_restarted_primary_believes_nothing() {
    let schedules = swept(moments(), |at| {
        let kill = Fault::new(FaultKind::Kill { host: 0 }, at, at);
        vec![kill, Fault::new(FaultKind::Restart { host: 0 }, at + 300, at + 300)]
    });
    closes("R1", schedules);
}

#[test]
fn h11_a_bootstrap_does_not_take_the_generation_of_another() {
    let schedules = swept(moments(), |at| {
        let kill = Fault::new(FaultKind::Kill { host: 1 }, at, at);
        vec![kill, Fault::new(FaultKind::Bootstrap { host: 1 }, at + 300, at + 300)]
    });
    closes("R2", schedules);
}

#[test]
fn h12_an_old_backup_does_not_renew_the_lease() {
    let schedules = swept(moments(), |at| {
        let mut faults = partition(at, at + 500).to_vec();
        faults.push(Fault::new(FaultKind::ArbiterOut { host: 0 }, at, at + 500));
        faults.push(Fault::new(FaultKind::Stray { host: 0 }, at + 5, at + 500));
        faults
    });
    closes("R3", schedules);
}

#[test]
fn h13_a_winner_whose_answer_is_lost_finds_out_by_reading() {
    let schedules = swept(moments(), |at| {
        let mut faults = partition(at, at + 400).to_vec();
        faults.extend([0, 1].map(|host| Fault::new(FaultKind::ArbiterAnswersLost { host }, at, at + 400)));
        faults
    });
    closes("R11", schedules);
}

/// The primary hears nothing and its arbiter hangs; the backup hears the primary well.
#[test]
fn h14_a_backup_that_is_not_heard_takes_over() {
    let schedules = swept(moments(), |at| {
        let hangs = Fault::new(FaultKind::ArbiterHangs { host: 0 }, at, NEVER);
        vec![hangs, Fault::new(FaultKind::Cut { from: 1, to: 0, paths: Paths::All }, at, NEVER)]
    });
    closes("R7-two-way", schedules);
}

#[test]
fn h15_a_blackholed_log_is_noticed_while_heartbeats_flow() {
    let schedules =
        swept(moments(), |at| vec![Fault::new(FaultKind::Cut { from: 0, to: 1, paths: Paths::Log }, at, NEVER)]);
    closes("R7-acknowledge", schedules);
}

#[test]
fn h16_a_glitch_while_the_arbiter_is_down_heals() {
    let schedules = swept(moments(), |at| {
        let mut faults = partition(at, at + 300).to_vec();
        faults.extend([0, 1].map(|host| Fault::new(FaultKind::ArbiterOut { host }, at, NEVER)));
        faults
    });
    closes("R12", schedules);
}

/// The first host believes in a lease that outlasts the patience of the second.
#[test]
fn nodes_of_different_leases_do_not_become_a_pair() {
    for schedule in swept(moments(), reset_with_outputs_waiting) {
        let coverage = run_schedule(&Schedule { terms_differ: true, ..schedule }, Rules::default()).unwrap();
        assert_eq!((coverage.pairs_formed, coverage.terms_refused), (0, 1));
    }
}

/// Entries compare what the guests take in; what they say after the last entry is compared with the released mark alone.
#[test]
fn a_replica_whose_outputs_are_not_the_primarys_does_not_go_live() {
    let schedules = swept(moments(), |at| {
        let corrupt = Fault::new(FaultKind::Corrupt { host: 1 }, at, at);
        vec![corrupt, Fault::new(FaultKind::PowerOff { host: 0 }, at + 100, at + 100)]
    });
    closes("R7-diverged", schedules);
}

/// Seen by whoever looks at the disk should the survivor die right then.
#[test]
fn h25_a_takeover_takes_no_block_back_behind_a_newer_write() {
    for schedule in swept(moments(), reset_with_outputs_waiting) {
        assert_eq!(run_schedule(&schedule, Rules::default()).map(|_| ()), Ok(()), "{schedule:?}");
    }
}

#[test]
fn a_replay_that_stands_still_is_dropped() {
    let schedules = swept(moments(), |at| vec![Fault::new(FaultKind::ReplayStalls { host: 1 }, at, NEVER)])
        .map(|schedule| Schedule { end: 5_000 * MILLISECOND, ..schedule });
    closes("R7-lag", schedules);
}

/// Its entries would pile up at the backup: the simulation checks what there is to replay with each that comes.
#[test]
fn a_slow_replay_slows_its_primary_and_stays_its_backup() {
    for schedule in swept(moments(), |at| vec![Fault::new(FaultKind::SlowReplay { host: 1 }, at, NEVER)])
        .map(|schedule| Schedule { rides_out: true, end: 5_000 * MILLISECOND, ..schedule })
    {
        let coverage = run_schedule(&schedule, Rules::default()).unwrap();
        assert!(coverage.guests_slowed > 0, "{schedule:?}");
    }
}

#[test]
fn a_backup_whose_replay_is_slow_takes_over() {
    for schedule in swept(moments(), |at| {
        let slow = Fault::new(FaultKind::SlowReplay { host: 1 }, at, NEVER);
        vec![slow, Fault::new(FaultKind::PowerOff { host: 0 }, at + 500, at + 500)]
    }) {
        let coverage = run_schedule(&schedule, Rules::default()).unwrap();
        assert_eq!(coverage.failovers, 1, "{schedule:?}");
    }
}

#[test]
fn a_pause_that_nobody_noticed_costs_no_node() {
    let schedules = swept(moments(), |at| vec![Fault::new(FaultKind::Freeze { host: 1 }, at, at + 149)])
        .map(|schedule| Schedule { rides_out: true, ..schedule });
    closes("R7-paused", schedules);
}

/// None of the two can say that the other was silent.
#[test]
fn hosts_that_stood_still_together_stay_a_pair() {
    // Where the guest is idle, heartbeats alone carry echoes.
    let idle = (1610..1690).step_by(7);
    let schedules = swept(moments().chain(idle), |at| {
        [0, 1].map(|host| Fault::new(FaultKind::Freeze { host }, at, at + 300 + 5 * host as u64)).to_vec()
    })
    .map(|schedule| Schedule { rides_out: true, ..schedule });
    closes("R7-paused", schedules);
}

#[test]
fn a_takeover_waits_until_no_write_of_the_old_primary_can_land() {
    closes("R19", swept(100..400, reset_with_outputs_waiting));
}
