//! Records for a share fetch: read from where the share-partition has something to give, served as they lie in the log
//! (INV-3), with the runs of offsets that the member was given.

use std::sync::Arc;

use bytes::Bytes;
use wherry_wire::batch::BatchHeader;
use wherry_wire::codec::ResponseError;
use wherry_wire::types::{LogId, Offset};

use super::requests::PartId;
use crate::api::errors::ApiError;
use crate::core::Core;
use crate::core::store::{Aborted, LogError, LogStore, Read, ReadToken, ReadUpTo, Served};
use crate::share::partition::{Acquired, Appetite, Settings};

/// How a group sees records.
struct View {
    group: Arc<str>,
    settings: Settings,
    /// Nothing of a transaction before that has committed.
    only_committed: bool,
}

/// What a share-partition has to give.
enum Next {
    /// It is still being begun.
    Opening,
    /// Nothing now.
    Nothing,
    /// Records from this offset on, as far as its members may see.
    At(Offset, ReadUpTo),
}

impl<S: LogStore> Core<S> {
    /// Takes what there is for each partition of a fetch, within its budget.
    pub(super) fn take_for_shares(&mut self, id: u64) {
        let Some(request) = self.shares.requests.get_mut(id) else { return };
        request.opening = false;
        let (parts, group) = (request.parts.len(), Arc::clone(request.group()));
        let view = View { settings: self.share_settings(&group), only_committed: self.shares_committed(&group), group };
        for part in 0..parts {
            let at = PartId { request: id, part };
            if let Err(error) = self.take_for_part(at, &view)
                && let Some(part) = self.shares.requests.part_mut(at)
            {
                part.error = Some(error);
            }
        }
    }

    fn take_for_part(&mut self, at: PartId, view: &View) -> Result<(), ResponseError> {
        let Some(request) = self.shares.requests.get_mut(at.request) else { return Ok(()) };
        let (records, bytes) = request.taken;
        let room = request.max_bytes.saturating_sub(bytes);
        let is_full = room == 0 || records >= request.appetite.most;
        let is_first = bytes == 0 && request.unread == 0;
        let Some(part) = request.parts.get(at.part) else { return Ok(()) };
        let Some(log) = part.log.filter(|_| part.fetches && !part.is_read && part.error.is_none()) else {
            return Ok(());
        };
        if is_full {
            return Ok(());
        }
        let (from, upto) = match self.next_for_share(view, log)? {
            Next::At(from, upto) => (from, upto),
            Next::Nothing => return Ok(()),
            Next::Opening => {
                if let Some(request) = self.shares.requests.get_mut(at.request) {
                    request.opening = true;
                }
                return Ok(());
            }
        };
        let budget = room.min(self.config.limits.fetch_partition_bytes);
        match self.store.read(log, from, upto, budget, is_first) {
            Ok(Read::Ready(served)) => self.took_for_part(at, log, from, served, &view.settings),
            Ok(Read::Pending(token)) => {
                self.shares.requests.reads.insert(token, (at, from));
                if let Some(request) = self.shares.requests.get_mut(at.request) {
                    request.unread += 1;
                    if let Some(part) = request.parts.get_mut(at.part) {
                        part.is_read = true;
                    }
                }
            }
            // Too many reads wait; or the log's start moved: next time.
            Err(LogError::Busy { .. } | LogError::OutOfRange { .. }) => {}
            Err(error) => return Err(self.share_read_error(log, &error)),
        }
        Ok(())
    }

    /// Where a share-partition has something to give, and how far its members may see.
    fn next_for_share(&mut self, view: &View, log: LogId) -> Result<Next, ResponseError> {
        let View { settings, only_committed, group } = view;
        let info = self.store.info(log);
        let committed = self.committed_end(log);
        let stable = committed.filter(|_| *only_committed).map(|committed| self.store.stable_end(log, committed));
        let Some(partition) = self.open_share(group, log)? else { return Ok(Next::Opening) };
        let (Some(info), Some(committed)) = (info, committed) else { return Ok(Next::Nothing) };
        let moved = partition.start() < info.log_start.0;
        if moved {
            partition.log_start_moved(info.log_start.0);
        }
        let visible = stable.unwrap_or(committed);
        let next = partition.next_offset(settings, visible.0);
        if moved {
            self.share_changed(group, log);
        }
        let upto = if *only_committed { ReadUpTo::Committed(visible) } else { ReadUpTo::Offset(visible) };
        Ok(next.map_or(Next::Nothing, |next| Next::At(Offset(next), upto)))
    }

    /// A read came back from the disk. It is given back if it was not one of these.
    pub(crate) fn share_read_done(
        &mut self,
        token: ReadToken,
        result: Result<Served, LogError>,
    ) -> Option<Result<Served, LogError>> {
        let Some((at, from)) = self.shares.requests.reads.remove(&token) else { return Some(result) };
        let request = self.shares.requests.get_mut(at.request)?;
        request.unread = request.unread.saturating_sub(1);
        let group = Arc::clone(request.group());
        let log = request.parts.get_mut(at.part).and_then(|part| {
            part.is_read = false;
            part.log
        });
        if let Some(log) = log {
            match result {
                Ok(served) => {
                    let settings = self.share_settings(&group);
                    self.took_for_part(at, log, from, served, &settings);
                }
                Err(LogError::Busy { .. } | LogError::OutOfRange { .. }) => {}
                Err(error) => {
                    let error = self.share_read_error(log, &error);
                    if let Some(part) = self.shares.requests.part_mut(at) {
                        part.error = Some(error);
                    }
                }
            }
        }
        self.wake_share_request(at.request);
        None
    }

    fn share_read_error(&self, log: LogId, error: &LogError) -> ResponseError {
        let LogError::Corrupt(what) = error else { return ApiError::from(error).error };
        tracing::error!(%what, "refusing to serve damaged bytes");
        // Where others have the same in sync, one of them leads in a moment.
        if self.others_in_sync(log) { ResponseError::KafkaStorageError } else { ResponseError::CorruptMessage }
    }

    /// Gives the member what is available of what was read.
    fn took_for_part(&mut self, at: PartId, log: LogId, from: Offset, served: Served, settings: &Settings) {
        let now_ns = self.now.monotonic_ns;
        let Some(request) = self.shares.requests.get_mut(at.request) else { return };
        let session = request.session.clone();
        let most = request.appetite.most.saturating_sub(request.taken.0);
        let appetite = Appetite { most, ..request.appetite };
        let run_length = request.run_length;
        // If it is another one by now, what was read is of no use.
        let Ok(Some(partition)) = self.open_share(&session.0, log) else { return };
        let batches = bounds(&served.batches);
        for (first, last) in aborted(&served.batches, &served.aborted) {
            partition.archive(first, last, settings);
        }
        let acquired = partition.acquire(&session.1, now_ns, settings, appetite, from.0, &batches);
        self.share_changed(&session.0, log);
        let records = acquired.iter().map(|run| usize::try_from(run.last - run.first + 1).unwrap_or(0)).sum::<usize>();
        let data = with_given(served.batches, &batches, &acquired);
        let Some(request) = self.shares.requests.get_mut(at.request) else { return };
        request.taken.0 = request.taken.0.saturating_add(records);
        request.taken.1 = request.taken.1.saturating_add(data.iter().map(Bytes::len).sum());
        let Some(part) = request.parts.get_mut(at.part) else { return };
        part.is_read = !acquired.is_empty();
        part.data = data;
        part.acquired = in_runs(acquired, run_length);
    }
}

/// First and last offset of each batch. What can't be read was not verified: there is no such thing in a log.
fn bounds(batches: &[Bytes]) -> Vec<(i64, i64)> {
    let headers = batches.iter().map_while(|batch| BatchHeader::read(batch, 0).ok());
    headers.map(|header| (header.base_offset.0, header.last_offset().0)).collect()
}

/// The offsets of batches that belong to aborted transactions: members don't know, and must not get them.
fn aborted(batches: &[Bytes], aborted: &[Aborted]) -> Vec<(i64, i64)> {
    let is_aborted = |header: &BatchHeader| {
        let of = |one: &Aborted| {
            one.producer_id == header.producer_id && (one.first..one.last).contains(&header.base_offset)
        };
        header.is_transactional() && !header.is_control() && aborted.iter().any(of)
    };
    let headers = batches.iter().map_while(|batch| BatchHeader::read(batch, 0).ok());
    headers.filter(is_aborted).map(|header| (header.base_offset.0, header.last_offset().0)).collect()
}

/// The batches that hold something that was given.
fn with_given(batches: Vec<Bytes>, bounds: &[(i64, i64)], given: &[Acquired]) -> Vec<Bytes> {
    let holds = |(first, last): &(i64, i64)| given.iter().any(|run| run.first <= *last && run.last >= *first);
    batches.into_iter().zip(bounds).filter(|(_, bounds)| holds(bounds)).map(|(batch, _)| batch).collect()
}

/// Cut to the length that the client would like best.
fn in_runs(given: Vec<Acquired>, length: usize) -> Vec<Acquired> {
    let Some(length) = i64::try_from(length).ok().filter(|length| *length > 0) else { return given };
    let cut = |run: Acquired| {
        let starts = (run.first..=run.last).step_by(usize::try_from(length).unwrap_or(usize::MAX));
        starts.map(move |first| Acquired { first, last: run.last.min(first.saturating_add(length - 1)), ..run })
    };
    given.into_iter().flat_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use wherry_wire::batch::{RawBatch, split};
    use wherry_wire::compress::Codec;
    use wherry_wire::records::{BatchBuilder, EndMarker, Stamp};
    use wherry_wire::types::LeaderEpoch;

    use super::*;

    const NO_HEADERS: [(&[u8], &[u8]); 0] = [];

    fn at(base: i64, bytes: Bytes) -> Bytes {
        let checked = split(bytes).next().unwrap().and_then(RawBatch::check).unwrap();
        let mut out = vec![0; checked.len()];
        checked.write_at(Offset(base), LeaderEpoch(0), &mut out).unwrap();
        out.into()
    }

    fn batch(base: i64, producer_id: i64, transactional: bool) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None, None);
        builder.set_transactional(transactional);
        for _ in 0..2 {
            builder.append(0, None, Some(b"v"), &NO_HEADERS).unwrap();
        }
        at(base, builder.build(Stamp { producer_id, producer_epoch: 0, base_sequence: 0 }).unwrap())
    }

    fn marker(base: i64, producer_id: i64) -> Bytes {
        let end = EndMarker { producer_id, producer_epoch: 0, coordinator_epoch: 0, commit: false };
        at(base, end.batch(0).unwrap().bytes().clone())
    }

    #[test]
    fn only_batches_of_aborted_transactions_are_nobodys() {
        let batches = [batch(0, 1, true), batch(2, 2, true), batch(4, 1, false), marker(6, 1), batch(7, 1, true)];
        let one = |producer_id, first, last| Aborted {
            producer_id,
            first: Offset(first),
            last: Offset(last),
            stable: Offset(0),
        };
        assert_eq!(aborted(&batches, &[one(1, 0, 6)]), [(0, 1)]);
        assert_eq!(aborted(&batches, &[one(1, 0, 6), one(2, 2, 9), one(1, 7, 9)]), [(0, 1), (2, 3), (7, 8)]);
        assert_eq!(aborted(&batches, &[]), []);
    }

    #[test]
    fn only_batches_with_something_given_are_sent_and_runs_are_cut() {
        let batches: Vec<Bytes> = [0, 2, 4, 6].map(|base| batch(base, -1, false)).to_vec();
        let bounds = bounds(&batches);
        assert_eq!(bounds, [(0, 1), (2, 3), (4, 5), (6, 7)]);
        let given = [Acquired { first: 3, last: 4, count: 1 }];
        assert_eq!(with_given(batches.clone(), &bounds, &given), [batches[1].clone(), batches[2].clone()]);
        let run = |first, last| Acquired { first, last, count: 2 };
        assert_eq!(in_runs(vec![run(0, 4), run(7, 7)], 2), [run(0, 1), run(2, 3), run(4, 4), run(7, 7)]);
        assert_eq!(in_runs(vec![run(0, 4)], 0), [run(0, 4)]);
    }
}
