//! Tables of good and bad resources.

mod bad;
mod good;

use super::{LoadErrors, check_set, load};

/// Loads and checks a set as `wherry up` does.
fn check(text: &str) -> Result<(), LoadErrors> {
    load("test.yaml", text).and_then(|documents| check_set(&documents))
}
