//! The storage engine: journal, tail, segments, indexes.

pub mod io;
