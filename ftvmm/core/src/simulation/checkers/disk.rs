//! The disk as the live owner sees it: what it wrote last, in program order.

use super::{Verdict, Violation};
use crate::protocol::{OutputIndex, Role};
use crate::simulation::guest::{BLOCKS, Guest};

/// The live guest has read this block.
pub fn check_read(guest: &Guest, block: usize, value: u64) -> Verdict {
    let expected = guest.blocks[block];
    if value != expected {
        let finding = format!("block {block} reads {value:x} where the guest wrote {expected:x}");
        return Err(Violation::new("disk", finding));
    }
    Ok(())
}

/// The live guest is told that its disk does not read.
pub fn check_failed_read(role: Role) -> Verdict {
    if role == Role::Protected {
        let finding = "the guest was told that its disk does not read, and the backup's was not asked".to_owned();
        return Err(Violation::new("disk", finding));
    }
    Ok(())
}

/// An output lands on a block that holds another: a survivor that re-issues must not take it back, should it die right then.
pub fn check_landing(block: usize, index: OutputIndex, holds: OutputIndex) -> Verdict {
    if index < holds {
        let finding = format!("block {block} holds output {holds}, and goes back to output {index}");
        return Err(Violation::new("disk", finding));
    }
    Ok(())
}

/// At the end, with nothing held and nothing in flight.
pub fn check_final_disk(guest: &Guest, disk: &[u64; BLOCKS]) -> Verdict {
    if guest.blocks != *disk {
        let finding = format!("at the end the disk holds {disk:x?} where the guest wrote {:x?}", guest.blocks);
        return Err(Violation::new("disk", finding));
    }
    Ok(())
}
