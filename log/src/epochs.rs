//! Where each leader epoch of a log begins (KIP-101): the history that truncation and OffsetForLeaderEpoch go by.

use wherry_wire::types::{LeaderEpoch, Offset};

/// Ascending in both; rebuilt from the batches, which carry their epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Epochs {
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl Epochs {
    /// A batch of this epoch was appended at this offset.
    pub fn appended(&mut self, epoch: LeaderEpoch, base: Offset) {
        if self.starts.last().is_none_or(|(last, _)| *last < epoch) {
            self.starts.push((epoch, base));
        }
    }

    /// Forgets epochs that begin at or above `end`.
    pub fn truncate(&mut self, end: Offset) {
        self.starts.retain(|(_, start)| *start < end);
    }

    /// Forgets what lies wholly below `start`; the epoch in force there now begins there.
    pub fn advance_start(&mut self, start: Offset) {
        let gone = self.starts.partition_point(|(_, s)| *s <= start);
        if gone > 1 {
            self.starts.drain(..gone - 1);
        }
        if let Some(first) = self.starts.first_mut()
            && first.1 < start
        {
            first.1 = start;
        }
    }

    /// The newest epoch.
    #[must_use]
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.starts.last().map(|(e, _)| *e)
    }

    /// The largest epoch at or below `asked`, and where it ends (`log_end` for the newest). `None` where nothing that
    /// old is known.
    #[must_use]
    pub fn end_of(&self, asked: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let after = self.starts.partition_point(|(e, _)| *e <= asked);
        let (epoch, _) = self.starts.get(after.checked_sub(1)?)?;
        let end = self.starts.get(after).map_or(log_end, |(_, start)| *start);
        Some((*epoch, end))
    }

    /// The epoch of the batch that holds this offset, or of the next one where a gap is.
    #[must_use]
    pub fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.starts.partition_point(|(_, start)| *start <= offset);
        self.starts.get(after.saturating_sub(1)).map(|(epoch, _)| *epoch)
    }

    /// Epochs and their starts, ascending.
    #[must_use]
    pub fn entries(&self) -> &[(LeaderEpoch, Offset)] {
        &self.starts
    }

    /// Puts back what a checkpoint held.
    pub fn restore(&mut self, epoch: LeaderEpoch, start: Offset) {
        self.appended(epoch, start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs() -> Epochs {
        let mut e = Epochs::default();
        for (epoch, base) in [(1, 0), (1, 5), (3, 10), (5, 20)] {
            e.appended(LeaderEpoch(epoch), Offset(base));
        }
        e
    }

    #[test]
    fn ends_follow_kip_101() {
        let e = epochs();
        let end = |asked| e.end_of(LeaderEpoch(asked), Offset(30)).map(|(e, o)| (e.0, o.0));
        assert_eq!(end(0), None);
        assert_eq!(end(1), Some((1, 10)));
        assert_eq!(end(2), Some((1, 10)));
        assert_eq!(end(3), Some((3, 20)));
        assert_eq!(end(5), Some((5, 30)));
        assert_eq!(end(9), Some((5, 30)));
    }

    #[test]
    fn an_offset_has_the_epoch_of_its_batch() {
        let mut e = epochs();
        let at = |e: &Epochs, offset| e.at(Offset(offset)).map(|epoch| epoch.0);
        assert_eq!([0, 9, 10, 19, 20, 99].map(|o| at(&e, o)), [1, 1, 3, 3, 5, 5].map(Some));
        e.advance_start(Offset(15));
        assert_eq!(at(&e, 15), Some(3));
        assert_eq!(at(&Epochs::default(), 0), None);
    }

    #[test]
    fn truncation_and_start_move_the_bounds() {
        let mut e = epochs();
        e.truncate(Offset(20));
        assert_eq!(e.latest(), Some(LeaderEpoch(3)));
        e.advance_start(Offset(12));
        assert_eq!(e.entries(), &[(LeaderEpoch(3), Offset(12))]);
    }
}
