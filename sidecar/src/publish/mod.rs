//! Publishing: single messages in, batches out.
//!
//! [`record`] turns an application's message into a record, [`stream`] serves a publishing stream, [`one`] a single message. They know
//! the backend only through its trait, and nothing of HTTP.

pub mod lanes;
pub(crate) mod many;
pub mod one;
pub mod record;
pub mod stream;
