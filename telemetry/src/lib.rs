//! Logs, traces, metrics and probes, the same in every role.
