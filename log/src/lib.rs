//! The storage engine: journal, tail, segments, indexes.
