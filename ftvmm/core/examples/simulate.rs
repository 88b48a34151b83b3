//! Runs the protocol's simulation by hand: `cargo run --example simulate -- FIRST END [RULES-OFF]`.

use std::error::Error;

use _core::protocol::Rules;
use _core::simulation;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, end, off @ ..] = arguments.as_slice() else {
        return Err("usage: simulate FIRST END [RULES-OFF]".into());
    };
    let rules: Rules = off.join(",").parse()?;
    println!("{}", simulation::run(first.parse()?..end.parse()?, rules));
    Ok(())
}
