//! The names in an open directory, with places that stay: those on the device move when names come and go.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;

use disk::Entry;

/// The names in a directory.
#[derive(Default)]
pub(super) struct Listing {
    /// whether it is as the directory
    pub(super) is_current: bool,
    places: BTreeMap<Vec<u8>, u64>,
    entries: BTreeMap<u64, Entry>,
    last_place: u64,
}

impl Listing {
    /// Takes over which names there are now. Those that stay keep their places, new ones come behind all others.
    pub(super) fn update(&mut self, entries: Vec<Entry>) {
        let old = core::mem::take(&mut self.places);
        self.entries.clear();
        for entry in entries {
            let place = old.get(&entry.name).copied().unwrap_or_else(|| {
                self.last_place += 1;
                self.last_place
            });
            self.places.insert(entry.name.clone(), place);
            self.entries.insert(place, entry);
        }
        self.is_current = true;
    }

    /// The entries behind a place, in order, and their places, which are 1 or more. A name that is no text, which another
    /// system has given, is shown as well as it can be.
    pub(super) fn behind(&self, place: u64) -> impl Iterator<Item = (u64, Cow<'_, str>, &Entry)> {
        let entries = self.entries.range((Bound::Excluded(place), Bound::Unbounded));
        entries.map(|(place, entry)| (*place, String::from_utf8_lossy(&entry.name), entry))
    }
}

#[cfg(test)]
mod tests {
    use disk::{Inode, Kind};

    use super::*;

    fn entries(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| Entry { name: name.as_bytes().into(), inode: Inode(7), kind: Kind::File }).collect()
    }

    fn behind(listing: &Listing, place: u64) -> Vec<(u64, String)> {
        listing.behind(place).map(|(place, name, _)| (place, name.into_owned())).collect()
    }

    #[test]
    fn names_keep_their_places_whatever_comes_and_goes() {
        let mut listing = Listing::default();
        assert!(!listing.is_current);
        listing.update(entries(&["a", "b", "c"]));
        assert!(listing.is_current);
        let place = listing.behind(0).nth(1).unwrap().0;
        listing.update(entries(&["d", "c", "b"]));
        assert_eq!(behind(&listing, place), [(3, "c".into()), (4, "d".into())]);
        listing.update(entries(&["a", "c"]));
        assert_eq!(behind(&listing, 0), [(3, "c".into()), (5, "a".into())]);
        assert_eq!(behind(&listing, u64::MAX), []);
    }
}
