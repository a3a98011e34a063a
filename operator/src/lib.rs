//! The resources of Wherry (Cluster, Topic, ConsumerGroup): their types, how they are read from YAML and what they refuse.
//!
//! The controllers and the injection webhook will live beside [`crd`]. Nothing here does I/O: text goes in, checked resources or
//! sentences come out.

pub mod crd;
