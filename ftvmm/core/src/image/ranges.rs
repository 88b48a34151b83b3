//! Sets of addresses, kept as ranges.

use std::ops::Range;

/// Ranges of addresses: ascending, none empty, and those that touch are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    sorted: Vec<Range<u64>>,
}

impl Ranges {
    /// The range that an address lies in.
    pub fn holding(&self, address: u64) -> Option<&Range<u64>> {
        let index = self.sorted.partition_point(|range| range.start <= address).checked_sub(1)?;
        Some(&self.sorted[index]).filter(|range| address < range.end)
    }

    /// Whether an address lies in one of the ranges.
    pub fn contains(&self, address: u64) -> bool {
        self.holding(address).is_some()
    }

    /// Whether any address of `range` lies in one of the ranges.
    pub fn meets(&self, range: &Range<u64>) -> bool {
        self.ending_behind(range.start).first().is_some_and(|first| first.start < range.end) && !range.is_empty()
    }

    /// Where the first range at or behind an address starts.
    pub fn next_start(&self, address: u64) -> Option<u64> {
        let index = self.sorted.partition_point(|range| range.start < address);
        self.sorted.get(index).map(|range| range.start)
    }

    /// Adds a range.
    pub fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.sorted.partition_point(|one| one.end < range.start);
        let last = self.sorted.partition_point(|one| one.start <= range.end);
        let merged = self.sorted[first..last]
            .iter()
            .fold(range, |merged, one| merged.start.min(one.start)..merged.end.max(one.end));
        self.sorted.splice(first..last, [merged]);
    }

    /// The ranges, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.sorted.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The parts of the ranges that lie in `bounds`, in ascending order.
    pub fn within(&self, bounds: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let inside = self.ending_behind(bounds.start).iter().take_while(move |range| range.start < bounds.end);
        inside.map(move |range| range.start.max(bounds.start)..range.end.min(bounds.end))
    }

    /// The parts of `bounds` that lie in none of the ranges, in ascending order.
    pub fn gaps(&self, bounds: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let end = bounds.end;
        let mut at = bounds.start;
        self.within(bounds)
            .chain(std::iter::once(end..end))
            .map(move |range| std::mem::replace(&mut at, range.end)..range.start)
            .filter(|gap| !gap.is_empty())
    }

    /// The ranges that end behind an address.
    fn ending_behind(&self, address: u64) -> &[Range<u64>] {
        &self.sorted[self.sorted.partition_point(|range| range.end <= address)..]
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Ranges {
        let mut all: Vec<Range<u64>> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        all.sort_unstable_by_key(|range| range.start);
        let mut sorted: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for range in all {
            match sorted.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => sorted.push(range),
            }
        }
        Ranges { sorted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Ranges {
        list.iter().map(|(start, end)| *start..*end).collect()
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut some = ranges(&[(10, 20), (20, 25), (40, 50), (5, 5)]);
        assert_eq!(some, ranges(&[(10, 25), (40, 50)]));
        some.add(25..40);
        assert_eq!(some, ranges(&[(10, 50)]));
        some.add(60..70);
        some.add(0..5);
        assert_eq!(some, ranges(&[(0, 5), (10, 50), (60, 70)]));
    }

    #[test]
    fn bounds_are_half_open() {
        let some = ranges(&[(10, 20), (30, 40)]);
        assert_eq!([9, 10, 19, 20].map(|address| some.contains(address)), [false, true, true, false]);
        assert_eq!([20..30, 20..31, 19..20, 0..10].map(|range| some.meets(&range)), [false, true, true, false]);
        assert_eq!((some.next_start(10), some.next_start(11), some.next_start(31)), (Some(10), Some(30), None));
    }

    #[test]
    fn parts_and_gaps_make_up_the_whole() {
        let some = ranges(&[(10, 20), (30, 40)]);
        assert_eq!(some.within(15..35).collect::<Vec<_>>(), [15..20, 30..35]);
        assert_eq!(some.gaps(15..45).collect::<Vec<_>>(), [20..30, 40..45]);
        assert_eq!(some.gaps(0..50).collect::<Vec<_>>(), [0..10, 20..30, 40..50]);
        assert_eq!(some.gaps(10..20).count(), 0);
    }
}
