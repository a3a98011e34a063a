//! What a transaction writes to one partition: batch after batch, each when the one before it was taken.

use std::collections::VecDeque;

use bytes::Bytes;
use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Stamp};

use crate::client::Io;
use crate::oracle::{Place, RecordId, TxnId, value};

#[derive(Debug)]
struct Batch {
    bytes: Bytes,
    ids: Vec<RecordId>,
    /// The node that it is on its way to.
    sent: Option<usize>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outgoing {
    id: TxnId,
    pub(super) place: Place,
    /// The coordinator has the partition in the transaction.
    pub(super) added: bool,
    /// To be made: what each record is a copy of.
    left: VecDeque<Vec<Option<(Place, i64)>>>,
    /// Made, and not taken yet.
    batch: Option<Batch>,
    numbers: u64,
}

impl Outgoing {
    pub(super) fn new(id: TxnId, place: Place, left: VecDeque<Vec<Option<(Place, i64)>>>) -> Self {
        Self { id, place, added: false, left, batch: None, numbers: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty() && self.batch.is_none()
    }

    /// Whether something is to be sent now.
    pub(super) fn is_ready(&self) -> bool {
        self.batch.as_ref().map_or(!self.left.is_empty(), |batch| batch.sent.is_none())
    }

    /// Its transaction is to be aborted.
    pub(super) fn give_up(&mut self) {
        self.left.clear();
    }

    /// Whether it is not known what became of a batch.
    pub(super) fn is_unresolved(&self) -> bool {
        self.batch.is_some()
    }

    /// The connection to a node is gone.
    pub(super) fn closed(&mut self, node: usize) {
        if let Some(batch) = &mut self.batch {
            batch.sent.take_if(|to| *to == node);
        }
    }

    /// Its oldest batch goes to this node: bytes and records. `sequence` is the producer's next one here.
    pub(super) fn send(
        &mut self,
        io: &mut Io<'_>,
        to: usize,
        producer: (i64, i16),
        sequence: &mut i32,
    ) -> Result<(Bytes, Vec<RecordId>), String> {
        let mut batch = match self.batch.take() {
            Some(batch) => batch,
            None => self.make(io, producer, sequence)?,
        };
        batch.sent = Some(to);
        let sent = (batch.bytes.clone(), batch.ids.clone());
        self.batch = Some(batch);
        Ok(sent)
    }

    fn make(&mut self, io: &mut Io<'_>, producer: (i64, i16), sequence: &mut i32) -> Result<Batch, String> {
        let codec = [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd][io.rng.below(4)];
        let padding = [0, 40, 300, 3_000][io.rng.below(4)];
        let mut builder = BatchBuilder::new(codec, None);
        builder.set_transactional(true);
        let mut ids = Vec::new();
        for source in self.left.pop_front().unwrap_or_default() {
            let record = RecordId { client: self.id.client, life: self.id.life, number: self.numbers };
            let value = value(record, padding);
            builder.append::<&[u8], &[u8]>(io.wall_ms, None, Some(&value), &[]).map_err(|error| error.to_string())?;
            io.oracle.logs.sent(self.place, record, value);
            io.oracle.transactions.sent(self.place, record, source);
            ids.push(record);
            self.numbers += 1;
        }
        let stamp = Stamp { producer_id: producer.0, producer_epoch: producer.1, base_sequence: *sequence };
        *sequence += builder.count();
        let bytes = builder.build(stamp).map_err(|error| error.to_string())?;
        Ok(Batch { bytes, ids, sent: None })
    }

    /// The batch with these records was taken.
    pub(super) fn taken(&mut self, ids: &[RecordId]) {
        self.batch.take_if(|batch| batch.ids == ids);
    }

    /// The batch with these records is to be sent again.
    pub(super) fn not_taken(&mut self, ids: &[RecordId]) {
        if let Some(batch) = self.batch.as_mut().filter(|batch| batch.ids == ids) {
            batch.sent = None;
        }
    }
}
