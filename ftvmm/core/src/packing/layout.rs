//! Where everything lies in the guest's memory.
//!
//! The personality lies where its linker put it, below [`PERSONALITY_END_MAX`]; a program that cannot be moved at its own
//! addresses; then the objects one behind the other, the stubs, and the package. The heap is behind them all.

use super::error::PackError;
use super::object::{ObjectFile, PAGE_BYTES};
use super::personality::PERSONALITY_END_MAX;
use crate::image::IMAGE_ADDRESS_END;

/// Between objects: a pointer that runs off one of them does not reach the next at once.
const GAP_BYTES: u64 = 64 << 10;
/// Jumps and addresses relative to RIP reach 2 GiB.
const CODE_END: u64 = 1 << 31;

/// The places of the objects, in their order, and the first address that is free behind them.
pub(super) struct Layout {
    pub bases: Vec<u64>,
    pub end: u64,
}

impl Layout {
    /// Gives each object a place.
    ///
    /// # Errors
    /// [`PackError::Occupied`] where a program that cannot be moved lies where the personality does, whose first free
    /// address is `personality_end`; [`PackError::TooLarge`] where there is no room left.
    pub fn of(files: &[ObjectFile], personality_end: u64) -> Result<Layout, PackError> {
        let mut layout = Layout { bases: Vec::with_capacity(files.len()), end: PERSONALITY_END_MAX };
        for file in files {
            let pages = file.pages();
            let base = match file.is_fixed() {
                true => pages.start,
                false => layout.end.next_multiple_of(file.alignment_bytes()),
            };
            if base < personality_end {
                let path = file.path.to_owned();
                return Err(PackError::Occupied { path, address: base, end: personality_end });
            }
            let end = base.saturating_add(pages.end - pages.start);
            if end > CODE_END {
                return Err(PackError::TooLarge { what: file.path.to_owned(), end, limit: CODE_END });
            }
            layout.bases.push(base);
            layout.end = layout.end.max(behind(end));
        }
        Ok(layout)
    }
}

/// A place for the next thing, on a page of its own.
pub(super) fn behind(end: u64) -> u64 {
    end.next_multiple_of(PAGE_BYTES) + GAP_BYTES
}

/// Makes sure that all of the image is below 4 GiB.
///
/// # Errors
/// [`PackError::TooLarge`].
pub(super) fn check_end(end: u64) -> Result<(), PackError> {
    match end > IMAGE_ADDRESS_END {
        true => Err(PackError::TooLarge { what: "the image".into(), end, limit: IMAGE_ADDRESS_END }),
        false => Ok(()),
    }
}
