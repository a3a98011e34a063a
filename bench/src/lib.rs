//! Side-by-side measurements: Apache Kafka, Wherry's node and a null node, one client for all, interleaved runs.
//!
//! Brokers are processes seen from outside; nothing here may link or know the inside of the node. `bench/README.md`
//! says how to run it and how to read it.

pub mod app;
pub mod broker;
pub mod cluster;
pub mod device;
pub mod figures;
pub mod frame;
pub mod kafka;
pub mod measure;
pub mod null_node;
pub mod raw;
pub mod report;
pub mod setup;
