//! Who is to have which partitions: pure functions of members, topics and what members had before.
//!
//! It must not know of epochs, records or requests. Racks are not looked at.

mod range;
mod uniform;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use uuid::Uuid;

use super::state::Parts;

/// A way to assign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::groups) enum Assignor {
    /// Evenly over all topics together, moving as little as can be.
    Uniform,
    /// Each topic in ranges: partitions of the same number of different topics go to the same member.
    Range,
}

impl Assignor {
    /// All of them; the first is the default.
    pub(in crate::groups) const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    pub(in crate::groups) const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    pub(in crate::groups) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// What each member is to have, in the order of the members.
    pub(in crate::groups) fn assign(self, spec: &Spec<'_>) -> Vec<Parts> {
        match self {
            Self::Uniform => uniform::assign(spec),
            Self::Range => range::assign(spec),
        }
    }
}

/// A topic that somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::groups) struct TopicSpec {
    pub(in crate::groups) id: Uuid,
    pub(in crate::groups) partitions: i32,
}

/// A member.
pub(in crate::groups) struct MemberSpec<'a> {
    /// The instance id of a static member, or the member id: it gives members an order that lasts.
    pub(in crate::groups) name: &'a str,
    /// Places in [`Spec::topics`], ascending. Members that want the same share them.
    pub(in crate::groups) topics: Arc<[usize]>,
    /// What it was to have before.
    pub(in crate::groups) before: Option<&'a Parts>,
}

/// What is to be assigned to whom.
pub(in crate::groups) struct Spec<'a> {
    pub(in crate::groups) topics: Vec<TopicSpec>,
    pub(in crate::groups) members: Vec<MemberSpec<'a>>,
}

impl Spec<'_> {
    /// The members that want each topic.
    fn readers(&self) -> Vec<Vec<usize>> {
        let mut readers = vec![Vec::new(); self.topics.len()];
        for (member, spec) in self.members.iter().enumerate() {
            for topic in spec.topics.iter() {
                if let Some(readers) = readers.get_mut(*topic) {
                    readers.push(member);
                }
            }
        }
        readers
    }
}
