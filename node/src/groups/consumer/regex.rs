//! Topics by pattern. The syntax is RE2's, the whole name must match, and matching takes time linear in the name: what a
//! client sends can make it neither loop nor grow beyond a bound.

use std::collections::BTreeSet;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use crate::groups::cluster::Cluster;

/// Bytes that a compiled pattern may take.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Depth of its parentheses.
const MAX_NESTING: u32 = 100;

/// The pattern, for whole names.
///
/// # Errors
/// A sentence: it is malformed, or too large.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let pattern = &unquoted(pattern);
    // By itself first: a closing parenthesis too many must not pair with the one that is put around it.
    build(pattern)?;
    // The line break ends a comment, should the pattern end in one.
    build(&format!("^(?:{pattern})$")).or_else(|_| build(&format!("^(?:{pattern}\n)$")))
}

/// RE2's `\Q...\E`, which the engine does not know, as escapes.
fn unquoted(pattern: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(pattern.len()), pattern);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let Some(quoted) = escape.strip_prefix("\\Q") else {
            // The backslash and what it escapes, whatever that is.
            let len = 1 + escape[1..].chars().next().map_or(0, char::len_utf8);
            out.push_str(&escape[..len]);
            rest = &escape[len..];
            continue;
        };
        let (text, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
        out.push_str(&regex::escape(text));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn build(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(MAX_COMPILED_BYTES).dfa_size_limit(MAX_COMPILED_BYTES).nest_limit(MAX_NESTING);
    builder.build().map_err(|error| error.to_string())
}

/// The topics that match, of those that who asks may know of.
pub(super) fn topics(pattern: &Regex, cluster: &dyn Cluster) -> BTreeSet<Arc<str>> {
    cluster.topic_names().filter(|name| pattern.is_match(name) && cluster.may_describe(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_name_must_match() {
        for (pattern, name, matches) in [
            ("foo", "foo", true),
            ("foo", "foobar", false),
            ("foo", "a-foo", false),
            ("foo|bar", "bar", true),
            ("foo|bar", "foobar", false),
            ("foo.*", "foobar", true),
            ("^foo$", "foo", true),
            ("(?i)FOO", "foo", true),
            (r"(?x) f o o # with a comment", "foo", true),
            (r"\Qa.b\E", "a.b", true),
            (r"\Qa.b\E", "axb", false),
            (r"x\.\Q(.\Ey+", "x.(.yy", true),
            (r"\\Qa", "Qa", false),
            (r"\Q.", ".", true),
            ("", "foo", false),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_or_too_large_is_refused() {
        let deep = format!("{}a{}", "(".repeat(400), ")".repeat(400));
        for pattern in ["(", ")", "a)(b", "*", r"(a)\1", "(?=a)", "((a{100}){100}){100}", &deep] {
            assert!(compile(pattern).is_err(), "{pattern:.20}");
        }
    }
}
