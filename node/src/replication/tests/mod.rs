//! Replication among three nodes in memory.

mod codec;
mod disk;
mod scenarios;
mod walk;
mod world;
