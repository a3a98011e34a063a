//! Share groups (KIP-932): members that take records of the same partitions, each record by itself. Who is to read which
//! partitions is decided here, at once: nobody has to give anything up before another may have it, since all may share. What
//! has become of the records is not known here ([`crate::share`]).
//!
//! ```text
//!   state.rs  the group    assign.rs  who reads what    heartbeat.rs  one heartbeat, the clock    record.rs  as a record
//! ```
//! As with the groups of KIP-848 the state changes when the record is handed out for the log; what is answered of it waits
//! until that is durable, and a write that the log refuses is undone before anything else happens. The assignment is not
//! written: it follows from the members and their topics.

mod assign;
pub(in crate::groups) mod describe;
pub(super) mod heartbeat;
pub(super) mod record;
pub(super) mod state;
pub(super) mod types;

pub(super) use heartbeat::malformed;
pub(super) use state::ShareGroup;
