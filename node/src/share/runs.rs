//! Values for runs of offsets: neighbours that are alike are one run, so that a partition whose records are handled in order
//! costs a few entries, however many records there are.

use std::collections::BTreeMap;

/// See the module. Offsets without a value are in no run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runs<V> {
    /// By first offset: last offset, inclusive, and value. They don't overlap, and no two that touch are alike.
    runs: BTreeMap<i64, (i64, V)>,
}

impl<V> Default for Runs<V> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<V: Copy + PartialEq> Runs<V> {
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// All runs: first and last offset, and value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, i64, V)> {
        self.runs.iter().map(|(first, (last, value))| (*first, *last, *value))
    }

    /// The first run.
    pub(crate) fn first(&self) -> Option<(i64, i64, V)> {
        self.runs.first_key_value().map(|(first, (last, value))| (*first, *last, *value))
    }

    /// The last offset with a value.
    pub(crate) fn last(&self) -> Option<i64> {
        self.runs.last_key_value().map(|(_, (last, _))| *last)
    }

    /// The runs that touch these offsets, cut to them.
    pub(crate) fn within(&self, first: i64, last: i64) -> impl Iterator<Item = (i64, i64, V)> {
        let before = self.runs.range(..first).next_back().filter(|(_, (end, _))| *end >= first);
        let inside = (first <= last).then(|| self.runs.range(first..=last));
        let all = before.filter(|_| first <= last).into_iter().chain(inside.into_iter().flatten());
        all.map(move |(from, (to, value))| ((*from).max(first), (*to).min(last), *value))
    }

    /// These offsets in pieces, with and without a value, in order and without gaps.
    pub(crate) fn cover(&self, first: i64, last: i64) -> Vec<(i64, i64, Option<V>)> {
        let mut pieces = Vec::new();
        let mut next = first;
        for (from, to, value) in self.within(first, last) {
            if from > next {
                pieces.push((next, from - 1, None));
            }
            pieces.push((from, to, Some(value)));
            next = to.saturating_add(1);
        }
        if next <= last {
            pieces.push((next, last, None));
        }
        pieces
    }

    /// Takes the values of these offsets away.
    pub(crate) fn clear(&mut self, first: i64, last: i64) {
        if first > last {
            return;
        }
        if let Some((from, (to, value))) = self.runs.range(..first).next_back().map(|(from, run)| (*from, *run))
            && to >= first
        {
            self.runs.insert(from, (first - 1, value));
            if to > last {
                self.runs.insert(last + 1, (to, value));
            }
        }
        let inside: Vec<i64> = self.runs.range(first..=last).map(|(from, _)| *from).collect();
        for from in inside {
            if let Some((to, value)) = self.runs.remove(&from)
                && to > last
            {
                self.runs.insert(last + 1, (to, value));
            }
        }
    }

    /// Gives these offsets a value.
    pub(crate) fn set(&mut self, first: i64, last: i64, value: V) {
        if first > last {
            return;
        }
        self.clear(first, last);
        let (mut from, mut to) = (first, last);
        if let Some((start, (end, before))) = self.runs.range(..first).next_back().map(|(start, run)| (*start, *run))
            && end.saturating_add(1) == first
            && before == value
        {
            self.runs.remove(&start);
            from = start;
        }
        if let Some((end, after)) = last.checked_add(1).and_then(|next| self.runs.get(&next).copied())
            && after == value
        {
            self.runs.remove(&(last + 1));
            to = end;
        }
        self.runs.insert(from, (to, value));
    }

    /// Forgets what lies below.
    pub(crate) fn cut_below(&mut self, start: i64) {
        if let Some((first, _, _)) = self.first()
            && first < start
        {
            self.clear(first, start - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(of: &[(i64, i64, u8)]) -> Runs<u8> {
        let mut runs = Runs::default();
        for (first, last, value) in of {
            runs.set(*first, *last, *value);
        }
        runs
    }

    fn all(runs: &Runs<u8>) -> Vec<(i64, i64, u8)> {
        runs.iter().collect()
    }

    #[test]
    fn neighbours_that_are_alike_are_one() {
        assert_eq!(all(&runs(&[(0, 4, 1), (5, 9, 1)])), [(0, 9, 1)]);
        assert_eq!(all(&runs(&[(5, 9, 1), (0, 4, 1)])), [(0, 9, 1)]);
        assert_eq!(all(&runs(&[(0, 9, 1), (3, 5, 2), (3, 5, 1)])), [(0, 9, 1)]);
        assert_eq!(all(&runs(&[(0, 4, 1), (6, 9, 1)])), [(0, 4, 1), (6, 9, 1)]);
    }

    #[test]
    fn what_is_set_last_counts() {
        assert_eq!(all(&runs(&[(0, 9, 1), (3, 5, 2)])), [(0, 2, 1), (3, 5, 2), (6, 9, 1)]);
        assert_eq!(all(&runs(&[(0, 2, 1), (4, 6, 1), (1, 5, 2)])), [(0, 0, 1), (1, 5, 2), (6, 6, 1)]);
        assert_eq!(all(&runs(&[(i64::MAX - 1, i64::MAX, 1)])), [(i64::MAX - 1, i64::MAX, 1)]);
    }

    #[test]
    fn pieces_have_no_gaps() {
        let runs = runs(&[(2, 3, 1), (6, 9, 2)]);
        let pieces = [(0, 1, None), (2, 3, Some(1)), (4, 5, None), (6, 7, Some(2))];
        assert_eq!(runs.cover(0, 7), pieces);
        assert_eq!(runs.cover(3, 3), [(3, 3, Some(1))]);
        assert_eq!(runs.cover(5, 4), []);
    }

    #[test]
    fn below_the_start_there_is_nothing() {
        let mut runs = runs(&[(0, 3, 1), (5, 9, 2)]);
        runs.cut_below(7);
        assert_eq!(all(&runs), [(7, 9, 2)]);
        runs.cut_below(2);
        assert_eq!(all(&runs), [(7, 9, 2)]);
        runs.cut_below(50);
        assert_eq!(runs.len(), 0);
    }

    /// Against an array of values.
    #[test]
    fn random_changes_are_as_in_an_array() {
        let mut seed = 7u64;
        let mut next = |bound: i64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from(seed >> 33).unwrap_or(0) % bound
        };
        let (mut runs, mut array) = (Runs::default(), [None; 40]);
        for _ in 0..5_000 {
            let first = next(40);
            let last = (first + next(8)).min(39);
            let value = u8::try_from(next(4)).unwrap_or(0);
            for at in first..=last {
                array[at as usize] = (value > 0).then_some(value);
            }
            if value > 0 {
                runs.set(first, last, value);
            } else {
                runs.clear(first, last);
            }
            let mut found = [None; 40];
            let mut before: Option<(i64, u8)> = None;
            for (first, last, value) in runs.iter() {
                assert!(first <= last && before.is_none_or(|(end, v)| end + 1 < first || v != value));
                before = Some((last, value));
                (first..=last).for_each(|at| found[at as usize] = Some(value));
            }
            assert_eq!(found, array);
        }
    }
}
