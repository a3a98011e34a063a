//! The records inside a batch: reading them without copying, writing them without an allocation per record.
//!
//! It knows message format v2 and nothing of logs. Bytes that are read may be hostile: each length is held against what is
//! there, and a compressed batch against the caller's bound, before anything is made of it.
//!
//! A record, each number a zigzag varint:
//! ```text
//! length | attributes i8 | timestamp delta | offset delta | key length, key | value length, value
//!        | header count, { key length, key, value length, value }
//! ```
//! A length of -1 is a null key or value.

mod build;
mod control;
mod ids;
mod parse;
#[cfg(test)]
mod tests;
mod validate;
pub(crate) mod varint;

pub use build::{BatchBuilder, BuildError, Sealed, Stamp};
pub use control::EndMarker;
pub use ids::{MESSAGE_ID_HEADER, message_ids};
pub use parse::{Header, Headers, Record, RecordError, RecordRef, RecordSet, RecordsError, records};
pub use validate::{InvalidRecords, RecordsSummary, ValidateOptions, validate_records};
