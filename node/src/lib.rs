//! The log node: sans-I/O core, request handlers, coordinators, drivers.
