//! The wherry binary: parses arguments and wires the roles.
fn main() {}
