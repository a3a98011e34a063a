//! Topic names: Kafka's rules, since names appear in its metrics and file names, where '.' and '_' collide.

use crate::MetadataError;

/// Longest topic name, in bytes (a file name, less room for a partition number).
pub const MAX_TOPIC_NAME: usize = 249;

/// Checks a topic name: 1 to 249 of ASCII letters, digits, '.', '_', '-', and neither "." nor "..".
///
/// # Errors
/// [`MetadataError::InvalidTopicName`] with the rule that it breaks.
pub fn check_name(name: &str) -> Result<(), MetadataError> {
    let wrong = |why: String| Err(MetadataError::InvalidTopicName(why));
    if name.is_empty() {
        return wrong("a topic name must not be empty".into());
    }
    if name == "." || name == ".." {
        return wrong(format!("'{name}' is not allowed as a topic name"));
    }
    if name.len() > MAX_TOPIC_NAME {
        return wrong(format!("a topic name has at most {MAX_TOPIC_NAME} characters, this one has {}", name.len()));
    }
    if let Some(c) = name.chars().find(|c| !is_legal(*c)) {
        return wrong(format!(
            "the topic name '{name}' contains {c:?}; only ASCII letters, digits, '.', '_' and '-' are allowed"
        ));
    }
    Ok(())
}

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Names with the same key can't both exist.
#[must_use]
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = "x".repeat(249);
        for good in ["a", "a.b_c-d", "0", "...", longest.as_str()] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(250);
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\0", long.as_str()] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert_eq!(collision_key("a.b_c"), collision_key("a_b.c"));
        assert_ne!(collision_key("a-b"), collision_key("a_b"));
    }
}
