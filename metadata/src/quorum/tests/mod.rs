//! Whole quorums in made-up time, and the encodings alone.

mod encoding;
mod random;
mod single;
mod trio;
mod world;
