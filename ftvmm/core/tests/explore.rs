//! Small worlds of the protocol, walked through every interleaving. `make explore` walks all of them; here are the quick ones.

use _core::protocol::Rules;
use _core::simulation::{Explored, SmallWorld, explore, small_worlds};

/// More than any walk in here needs.
const STATES_MAX: usize = 2_000_000;

fn world(name: &str) -> SmallWorld {
    small_worlds().into_iter().find(|world| world.name == name).unwrap()
}

fn walk(name: &str, rules: Rules) -> Explored {
    explore(&world(name), rules, STATES_MAX, &mut |_| {})
}

#[test]
fn each_rule_has_a_small_world_that_needs_it() {
    let worlds = small_worlds();
    for rule in Rules::NAMES {
        let needed = worlds.iter().filter(|world| world.needs.contains(rule)).count();
        // Whether a pause is noticed is decided within less than a step of the clock: holes.rs has it.
        assert_eq!(needed, usize::from(*rule != "R7-paused"), "{rule}");
    }
}

#[test]
fn a_pause_costs_a_healthy_pair_no_node_in_any_interleaving() {
    let whole = walk("a healthy pair, with a pause", Rules::default());
    println!("{whole}");
    assert!(whole.exhausted && whole.failure.is_none(), "{whole}");
    assert!(whole.coverage.pauses_noticed > 0 && whole.coverage.outputs_emitted > 0, "{whole}");
}

#[test]
fn a_rule_that_is_off_is_told_by_a_shortest_way_to_what_breaks() {
    for rule in ["R5-completion", "R17"] {
        let without = walk("a pair, with one fault", Rules::without([rule]).unwrap());
        let (_, story) = without.failure.expect(rule);
        assert!(story.iter().any(|line| line.contains("BROKEN")), "{rule}: {story:?}");
        assert!(!story.iter().any(|line| line.contains("FAULT")), "{rule} needs no fault: {story:?}");
    }
}

#[test]
fn a_walk_finds_the_same_again() {
    let rules = Rules::without(["R9-drain"]).unwrap();
    let once = || walk("a pair that loses its primary, with another fault", rules);
    let (first, second) = (once(), once());
    assert_eq!((first.states, first.transitions, first.depth), (second.states, second.transitions, second.depth));
    assert!(first.failure.is_some());
    assert_eq!(first.failure, second.failure);
}
