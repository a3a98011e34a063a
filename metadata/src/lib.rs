//! The metadata state machine: topics, configs, producer ids.
