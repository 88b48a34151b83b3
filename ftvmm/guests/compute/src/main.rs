//! `compute [--rounds=2000]`
//!
//! Does that many rounds of work, prints about ten lines of progress and the digest of it all.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use sdk::arguments::{ArgumentError, Arguments, USAGE_EXIT_STATUS};
use sdk::boot::BootInfo;
use work::Work;

sdk::guest!(main, []);

fn parse(command_line: &str) -> Result<u64, ArgumentError> {
    let mut arguments = Arguments::parse(command_line)?;
    let rounds = arguments.take_count("rounds")?.unwrap_or(2000);
    arguments.finish()?;
    Ok(rounds)
}

fn main(boot_info: &'static BootInfo) -> i32 {
    let rounds = match parse(boot_info.command_line()) {
        Ok(rounds) => rounds,
        Err(error) => {
            sdk::println!("compute: {error}");
            return USAGE_EXIT_STATUS;
        }
    };
    let mut work = Work::default();
    let lines_apart = rounds.div_ceil(10);
    for round in 1..=rounds {
        work.round();
        if round % lines_apart == 0 && round < rounds {
            sdk::println!("compute: round {round} of {rounds}");
        }
    }
    let digest: String = work.digest().iter().map(|byte| format!("{byte:02x}")).collect();
    sdk::println!("compute: {rounds} rounds, digest {digest}");
    0
}
