//! Where each field of a YAML document stands, so that a problem found later can name its line.
//!
//! It must not know the resources: it reads any document.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A document as a tree of places.
#[derive(Debug)]
pub(super) enum Node {
    /// A scalar, with its text if it is one that names something (kind, apiVersion, names).
    Scalar(Option<String>),
    Seq(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        self.entry(name).map(|(_, value)| &value.value)
    }

    fn entry(&self, name: &str) -> Option<&(Spanned<String>, Spanned<Self>)> {
        match self {
            Self::Map(entries) => entries.iter().find(|(key, _)| key.value == name),
            Self::Scalar(_) | Self::Seq(_) => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar(text) => text.as_deref(),
            Self::Seq(_) | Self::Map(_) => None,
        }
    }

    /// The line of a path such as `spec.listeners[0].port`, or of what of it there is; 0 if nothing of it is there.
    pub(super) fn line_of(&self, path: &str) -> u64 {
        let mut line = 0;
        let mut node = self;
        for step in steps(path) {
            let next = match (step, node) {
                (Step::Key(name), _) => node.entry(name).map(|(key, value)| (key.referenced.line(), &value.value)),
                (Step::Index(n), Self::Seq(items)) => items.get(n).map(|item| (item.referenced.line(), &item.value)),
                (Step::Index(_), Self::Scalar(_) | Self::Map(_)) => None,
            };
            let Some((at, below)) = next else { break };
            line = at;
            node = below;
        }
        line
    }

    /// The deepest path whose key or value begins at this line and column.
    pub(super) fn path_at(&self, line: u64, column: u64) -> Option<String> {
        let mut found = None;
        self.search("", (line, column), &mut found);
        found
    }

    fn search(&self, above: &str, place: (u64, u64), found: &mut Option<String>) {
        let mut look = |path: String, places: &[(u64, u64)], below: &Self| {
            if places.contains(&place) {
                *found = Some(path.clone());
            }
            below.search(&path, place, found);
        };
        match self {
            Self::Scalar(_) => {}
            Self::Seq(items) => {
                for (n, item) in items.iter().enumerate() {
                    look(format!("{above}[{n}]"), &[begins(item)], &item.value);
                }
            }
            Self::Map(entries) => {
                for (key, value) in entries {
                    let dot = if above.is_empty() { "" } else { "." };
                    look(format!("{above}{dot}{}", key.value), &[begins(key), begins(value)], &value.value);
                }
            }
        }
    }
}

fn begins<T>(spanned: &Spanned<T>) -> (u64, u64) {
    (spanned.referenced.line(), spanned.referenced.column())
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `spec.listeners[0].port` and `spec.config["a.b"]`, step by step.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let Some((inside, after)) = after.split_once(']') else { break };
            steps.push(inside.parse().map_or_else(|_| Step::Key(inside.trim_matches('"')), Step::Index));
            rest = after;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            steps.push(Step::Key(name));
            rest = after;
        }
    }
    steps
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Scalar(Some(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar(None))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Scalar(None))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Scalar(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar(None))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Scalar(None))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(None))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(None))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, data: A) -> Result<Node, A::Error> {
        let (IgnoredAny, _) = data.variant()?;
        Ok(Node::Scalar(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}
