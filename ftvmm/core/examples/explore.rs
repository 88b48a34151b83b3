//! Walks every small world of the simulation: `cargo run --release --example explore -- [STATES-MAX [PART-OF-A-NAME]]`. With all rules each
//! must hold in every interleaving; without a rule that it needs a promise must break.

use std::error::Error;

use _core::protocol::Rules;
use _core::simulation::{Coverage, explore, small_worlds};

/// As many as fit into the memory of a small machine.
const STATES_MAX: usize = 20_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let states_max = arguments.first().map_or(Ok(STATES_MAX), |text| text.parse())?;
    let named = arguments.get(1).map_or("", |part| part.as_str());
    let mut coverage = Coverage::default();
    let (mut states, mut wrong) = (0, Vec::new());
    for world in small_worlds().iter().filter(|world| world.name.contains(named)) {
        let walk = |rules| explore(world, rules, states_max, &mut |line| eprintln!("{line}"));
        let whole = walk(Rules::default());
        println!("{whole}");
        coverage.add(&whole.coverage);
        states += whole.states;
        if whole.failure.is_some() || !whole.exhausted {
            wrong.push(world.name.to_owned());
        }
        for rule in &world.needs {
            let without = walk(Rules::without([*rule])?);
            println!("without {rule}: {without}");
            if without.failure.is_none() {
                wrong.push(format!("{} without {rule}", world.name));
            }
        }
    }
    println!("{states} states with all rules. Over all transitions:\n{coverage}");
    if wrong.is_empty() { Ok(()) } else { Err(format!("not as it has to be: {}", wrong.join("; ")).into()) }
}
