//! Consumer groups of the protocol of KIP-848: members only say what they want and what they have; who is to have which
//! partitions is decided here, and reached step by step, each member in its own time.
//!
//! A group of the new kind takes the place of a classic one that has no members, and the other way round. Its state changes
//! as soon as the records are handed out for the log; what is answered of it waits until they are durable, and a write that
//! the log refuses is undone before anything else happens ([`super::Input::Refused`]).
//!
//! ```text
//!   state.rs      the group            fact.rs     what changes it      record.rs   facts as records
//!   heartbeat.rs  one heartbeat        leave.rs    who goes             current.rs  one step of one member
//!   assign/       who is to have what  regex.rs    topics by pattern    draft.rs    changes on their way to the log
//! ```
//! Sources: KIP-848; KIP-1082 (members make their own ids), KIP-1101 (hash of the topics), KIP-1251 (epochs of partitions),
//! and the coordinator of Apache Kafka 4.3 where those leave it open.

mod assign;
mod check;
mod compact;
pub(super) mod current;
pub(super) mod describe;
mod draft;
pub(super) mod fact;
pub(super) mod heartbeat;
pub(super) mod leave;
pub(super) mod record;
mod regex;
pub(super) mod state;
pub(super) mod timeout;
pub(super) mod types;

pub(super) use check::malformed;
pub(super) use draft::Undo;
pub(super) use state::ConsumerGroup;
