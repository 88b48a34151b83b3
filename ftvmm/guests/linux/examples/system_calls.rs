//! Prints `docs/system-calls.md`: the table of system calls, from the code that serves them.
//!
//!     cargo run --package=linux --example=system_calls > ../../docs/system-calls.md

use personality::system_calls::{State, TABLE};

fn main() {
    println!("# System calls of a packed Linux program\n");
    println!(
        "Made from `ftvmm/guests/linux/src/system_calls.rs` by its example `system_calls`; do not edit it here.\n"
    );
    println!(
        "*real*: does what Linux does. *harmless*: succeeds and does nothing. *refused*: fails with that error, as"
    );
    println!(
        "Linux does where a call is not built in or not allowed. Any other number is refused with ENOSYS and said on"
    );
    println!("the console once.\n");
    println!("| number | name | state | note |");
    println!("|---|---|---|---|");
    for call in TABLE {
        let state = match call.state {
            State::Real => "real".to_owned(),
            State::Harmless => "harmless".to_owned(),
            State::Refused(error) => format!("refused: {}", error.name()),
        };
        println!("| {} | `{}` | {state} | {} |", call.number, call.name, call.note);
    }
}
