//! Every limit of this room, in one place (INV-7, INV-8). What a peer declares is held against these before memory is
//! allocated for it.

/// Largest frame, its length prefix excluded: Kafka's `socket.request.max.bytes`.
pub const MAX_FRAME_BYTES: usize = 100 * 1024 * 1024;

/// Largest frame that carries no records: room for 100,000 partitions in one request, or a large group's assignment.
pub const MAX_CONTROL_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Smallest request: API key, version, correlation id, a null client id.
pub const MIN_REQUEST_BYTES: usize = 10;

/// Array elements in one request, all arrays together. An element takes at most about 200 bytes once decoded.
pub const MAX_REQUEST_ELEMENTS: usize = 256 * 1024;

/// Array elements in one response that a client decodes: the metadata of some 100,000 partitions with their replicas.
pub const MAX_RESPONSE_ELEMENTS: usize = 4 * 1024 * 1024;

/// Tagged fields in one message, all structs together: each unknown one takes a map entry.
pub const MAX_TAGGED_FIELDS: usize = 4 * 1024;

/// Structs and arrays inside one another in any message that we know; the schema bounds it, a test holds it to this.
pub const MAX_NESTING: usize = 12;

/// Largest record batch that is built or decompressed where the caller names no bound of its own.
pub const MAX_BATCH_BYTES: usize = MAX_FRAME_BYTES;

/// Headers of one record.
pub const MAX_RECORD_HEADERS: usize = 10_000;

/// Memory that a decompressor may take beside its output: windows and tables, whatever the input says.
pub const DECOMPRESSOR_WORKSPACE_BYTES: usize = 512 * 1024;
