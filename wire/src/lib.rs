//! The Kafka protocol as Wherry speaks it: record batches, compression, and the codec seam.
//!
//! This room knows bytes and nothing of disks, sockets or clocks.

pub mod batch;
pub mod codec;
pub mod compress;
pub mod frame;
pub mod limits;
#[cfg(test)]
mod meter;
pub mod records;
pub mod types;
