//! The protocol under random fault schedules, and what becomes of it without each of its rules.

use _core::protocol::Rules;
use _core::simulation::{self, Schedule};

/// As many as one core checks in well under a minute.
const SCHEDULES: u64 = 20_000;

#[test]
fn every_promise_holds_under_random_faults() {
    let report = simulation::run(0..SCHEDULES, Rules::default());
    println!("{report}");
    assert!(report.failure.is_none(), "{report}");
    assert_eq!(report.coverage.missing(), Vec::<&str>::new(), "the schedules never made this happen\n{report}");
}

#[test]
fn a_healthy_pair_stays_together() {
    for seed in 0..500 {
        let schedule = Schedule { seed, noise: true, rides_out: true, ..Schedule::directed(Vec::new()) };
        assert_eq!(simulation::run_schedule(&schedule, Rules::default()).map(|_| ()), Ok(()), "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let rules = Rules::without(["R9"]).unwrap();
    assert_eq!(simulation::run(0..2000, rules), simulation::run(0..2000, rules));
}

/// Random schedules find what these rules are for; for the others see `holes.rs`.
#[test]
fn without_a_rule_random_faults_break_a_promise() {
    let found_by_chance = [
        "R1",
        "R2",
        "R3",
        "R5-acknowledgement",
        "R5-lease",
        "R5-completion",
        "R5-order",
        "R6",
        "R7-diverged",
        "R8",
        "R9",
        "R9-drain",
        "R10",
        "R11",
        "R14",
        "R15",
        "R16-reissue",
        "R16-loser",
        "R17",
        "R17-read",
        "R17-trap",
    ];
    for name in found_by_chance {
        let report = simulation::run(0..SCHEDULES, Rules::without([name]).unwrap());
        assert!(report.failure.is_some(), "{SCHEDULES} schedules did not notice that {name} is off");
    }
}

#[test]
fn a_failing_schedule_is_shrunk_to_the_faults_that_matter() {
    let report = simulation::run(0..SCHEDULES, Rules::without(["R5-lease"]).unwrap());
    let failure = report.failure.unwrap();
    assert!(failure.shrunk.faults.len() <= 2, "{failure}");
    for index in 0..failure.shrunk.faults.len() {
        let mut smaller = failure.shrunk.clone();
        smaller.faults.remove(index);
        assert!(simulation::run_schedule(&smaller, Rules::without(["R5-lease"]).unwrap()).is_ok(), "{failure}");
    }
}
