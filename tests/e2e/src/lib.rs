//! Stock clients, real Kafka and real faults against the binary.
