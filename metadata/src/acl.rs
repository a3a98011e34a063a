//! Access control lists: who may do what with which resource, as Kafka has it (KIP-11, KIP-290).
//!
//! A rule that denies wins over all that allow. Rules are on a name, on a prefix of names, or on `*`, every name.
//! [`Acls`] answers by looking only at the rules of a resource's name, of its prefixes and of `*`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::MetadataError;
use crate::state::limits;

/// Every name of a resource, or every host.
pub const WILDCARD: &str = "*";
/// Every user.
pub const ANY_USER: &str = "User:*";
/// The only name of the resource [`ResourceType::Cluster`].
pub const CLUSTER_NAME: &str = "kafka-cluster";

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// As the protocol has it.
            #[must_use]
            pub fn code(self) -> i8 {
                match self {
                    $(Self::$variant => $code,)*
                }
            }

            /// What the protocol means by a number, if it is one of these.
            #[must_use]
            pub fn from_code(code: i8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Kind of resource.
    ResourceType {
        /// A topic.
        Topic = 2,
        /// A consumer group.
        Group = 3,
        /// The cluster.
        Cluster = 4,
        /// A transactional id.
        TransactionalId = 5,
        /// A delegation token.
        DelegationToken = 6,
        /// A user.
        User = 7,
    }
}

codes! {
    /// What a rule's name stands for.
    PatternType {
        /// That name; or every one, if it is [`WILDCARD`].
        Literal = 3,
        /// Every name that begins so.
        Prefixed = 4,
    }
}

codes! {
    /// What somebody wants to do.
    Operation {
        /// Anything.
        All = 2,
        /// Read.
        Read = 3,
        /// Write.
        Write = 4,
        /// Create.
        Create = 5,
        /// Delete.
        Delete = 6,
        /// Alter.
        Alter = 7,
        /// See that it is there, and its properties.
        Describe = 8,
        /// What nodes do with each other.
        ClusterAction = 9,
        /// See configuration.
        DescribeConfigs = 10,
        /// Change configuration.
        AlterConfigs = 11,
        /// Write with an idempotent producer.
        IdempotentWrite = 12,
        /// Create delegation tokens.
        CreateTokens = 13,
        /// See delegation tokens.
        DescribeTokens = 14,
        /// Prepare transactions that somebody else decides.
        TwoPhaseCommit = 15,
    }
}

codes! {
    /// What a rule says.
    Permission {
        /// No.
        Deny = 2,
        /// Yes.
        Allow = 3,
    }
}

impl ResourceType {
    /// What can be done with such a resource.
    #[must_use]
    pub fn operations(self) -> &'static [Operation] {
        use Operation as Op;
        match self {
            Self::Topic => &[
                Op::Read,
                Op::Write,
                Op::Create,
                Op::Describe,
                Op::Delete,
                Op::Alter,
                Op::DescribeConfigs,
                Op::AlterConfigs,
            ],
            Self::Group => &[Op::Read, Op::Describe, Op::Delete, Op::DescribeConfigs, Op::AlterConfigs],
            Self::Cluster => &[
                Op::Create,
                Op::ClusterAction,
                Op::DescribeConfigs,
                Op::AlterConfigs,
                Op::IdempotentWrite,
                Op::Alter,
                Op::Describe,
            ],
            Self::TransactionalId => &[Op::Describe, Op::Write, Op::TwoPhaseCommit],
            Self::DelegationToken => &[Op::Describe],
            Self::User => &[Op::CreateTokens, Op::DescribeTokens],
        }
    }
}

/// One rule on one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acl {
    /// Kind of resource.
    pub resource: ResourceType,
    /// What the name stands for.
    pub pattern: PatternType,
    /// Name of the resource.
    pub name: String,
    /// Whom it is about, with its type: `User:alice`, or [`ANY_USER`].
    pub principal: String,
    /// From where: an address, or [`WILDCARD`].
    pub host: String,
    /// What.
    pub operation: Operation,
    /// Whether it may be.
    pub permission: Permission,
}

/// Which names a filter is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatternFilter {
    /// Any pattern, with exactly that name.
    Any,
    /// Every rule that has to do with the resource of that name.
    Match,
    /// That pattern.
    Only(PatternType),
}

/// Rules that are looked for; what is `None` may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclFilter {
    /// Kind of resource.
    pub resource: Option<ResourceType>,
    /// Which names.
    pub pattern: PatternFilter,
    /// Name of the resource.
    pub name: Option<String>,
    /// Whom it is about.
    pub principal: Option<String>,
    /// From where.
    pub host: Option<String>,
    /// What.
    pub operation: Option<Operation>,
    /// What it says.
    pub permission: Option<Permission>,
}

impl AclFilter {
    /// Whether a rule is meant.
    #[must_use]
    pub fn matches(&self, acl: &Acl) -> bool {
        self.resource.is_none_or(|wanted| wanted == acl.resource)
            && self.name_matches(acl)
            && self.principal.as_ref().is_none_or(|wanted| *wanted == acl.principal)
            && self.host.as_ref().is_none_or(|wanted| *wanted == acl.host)
            && self.operation.is_none_or(|wanted| wanted == acl.operation)
            && self.permission.is_none_or(|wanted| wanted == acl.permission)
    }

    fn name_matches(&self, acl: &Acl) -> bool {
        let same = self.name.as_ref().is_none_or(|wanted| *wanted == acl.name);
        match (self.pattern, &self.name) {
            (PatternFilter::Any, _) => same,
            (PatternFilter::Only(pattern), _) => pattern == acl.pattern && same,
            (PatternFilter::Match, None) => true,
            (PatternFilter::Match, Some(name)) => match acl.pattern {
                PatternType::Literal => same || acl.name == WILDCARD,
                PatternType::Prefixed => name.starts_with(&acl.name),
            },
        }
    }
}

/// What the rules say to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Some rule allows it and none denies it.
    Allowed,
    /// A rule denies it, or there are rules and none allows it.
    Denied,
    /// No rule is about the resource.
    NoRule,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// With its type: `User:alice`.
    pub principal: &'a str,
    /// Its address.
    pub host: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    principal: String,
    host: String,
    operation: Operation,
    permission: Permission,
}

impl Rule {
    fn is_about(&self, asker: &Asker<'_>) -> bool {
        (self.principal == asker.principal || self.principal == ANY_USER)
            && (self.host == asker.host || self.host == WILDCARD)
    }

    fn denies(&self, operation: Operation) -> bool {
        self.permission == Permission::Deny && (self.operation == operation || self.operation == Operation::All)
    }

    /// Whoever may read, write, delete or alter may also see; whoever may change configuration may see it.
    fn allows(&self, operation: Operation) -> bool {
        use Operation as Op;
        let implied = match operation {
            Op::Describe => matches!(self.operation, Op::Read | Op::Write | Op::Delete | Op::Alter),
            Op::DescribeConfigs => self.operation == Op::AlterConfigs,
            Op::All
            | Op::Read
            | Op::Write
            | Op::Create
            | Op::Delete
            | Op::Alter
            | Op::ClusterAction
            | Op::AlterConfigs
            | Op::IdempotentWrite
            | Op::CreateTokens
            | Op::DescribeTokens
            | Op::TwoPhaseCommit => false,
        };
        let direct = self.operation == operation || self.operation == Op::All;
        self.permission == Permission::Allow && (direct || implied)
    }
}

type Rules = BTreeSet<Rule>;

/// All rules, by the names that they are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acls {
    literal: BTreeMap<ResourceType, BTreeMap<String, Rules>>,
    prefixed: BTreeMap<ResourceType, BTreeMap<String, Rules>>,
    /// How many prefixes have that length in bytes.
    lengths: BTreeMap<ResourceType, BTreeMap<usize, usize>>,
    count: usize,
}

impl Acls {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Acl> + '_ {
        let of = |pattern: PatternType| {
            self.of_pattern(pattern).iter().flat_map(move |(resource, names)| {
                names
                    .iter()
                    .flat_map(move |(name, rules)| rules.iter().map(move |rule| acl(*resource, pattern, name, rule)))
            })
        };
        of(PatternType::Literal).chain(of(PatternType::Prefixed))
    }

    /// What the rules say of an operation on a resource.
    #[must_use]
    pub fn decide(&self, asker: &Asker<'_>, operation: Operation, resource: ResourceType, name: &str) -> Decision {
        let (mut found, mut allowed) = (false, false);
        for rule in self.about(resource, name) {
            found = true;
            if rule.is_about(asker) {
                if rule.denies(operation) {
                    return Decision::Denied;
                }
                allowed |= rule.allows(operation);
            }
        }
        match (found, allowed) {
            (_, true) => Decision::Allowed,
            (true, false) => Decision::Denied,
            (false, false) => Decision::NoRule,
        }
    }

    fn about<'a>(&'a self, resource: ResourceType, name: &'a str) -> impl Iterator<Item = &'a Rule> {
        let literal = self.literal.get(&resource).into_iter();
        let literal = literal.flat_map(move |names| [names.get(name), names.get(WILDCARD)]).flatten();
        let lengths = self.lengths.get(&resource).into_iter().flat_map(BTreeMap::keys);
        let prefixed = lengths.filter_map(move |length| self.prefixed.get(&resource)?.get(name.get(..*length)?));
        literal.chain(prefixed).flatten()
    }

    /// Whether the rules let somebody do this with some resource of a kind, whichever (KIP-679).
    #[must_use]
    pub fn decide_for_some(&self, asker: &Asker<'_>, operation: Operation, resource: ResourceType) -> Decision {
        let denied = |rules: &Rules| rules.iter().any(|rule| rule.is_about(asker) && rule.denies(operation));
        let allowed = |rules: &Rules| rules.iter().any(|rule| rule.is_about(asker) && rule.allows(operation));
        let empty = BTreeMap::new();
        let literal = self.literal.get(&resource).unwrap_or(&empty);
        let prefixed = self.prefixed.get(&resource).unwrap_or(&empty);
        if literal.get(WILDCARD).is_some_and(denied) {
            return Decision::Denied;
        }
        if literal.get(WILDCARD).is_some_and(allowed) {
            return Decision::Allowed;
        }
        let bad: Vec<&str> =
            prefixed.iter().filter(|(_, rules)| denied(rules)).map(|(name, _)| name.as_str()).collect();
        let outside = |name: &str| !bad.iter().any(|prefix| name.starts_with(prefix));
        let some_prefix = prefixed.iter().any(|(name, rules)| allowed(rules) && outside(name));
        let some_name = literal.iter().any(|(name, rules)| allowed(rules) && !denied(rules) && outside(name));
        match (some_prefix || some_name, literal.is_empty() && prefixed.is_empty()) {
            (true, _) => Decision::Allowed,
            (false, false) => Decision::Denied,
            (false, true) => Decision::NoRule,
        }
    }

    fn of_pattern(&self, pattern: PatternType) -> &BTreeMap<ResourceType, BTreeMap<String, Rules>> {
        match pattern {
            PatternType::Literal => &self.literal,
            PatternType::Prefixed => &self.prefixed,
        }
    }

    fn of_pattern_mut(&mut self, pattern: PatternType) -> &mut BTreeMap<ResourceType, BTreeMap<String, Rules>> {
        match pattern {
            PatternType::Literal => &mut self.literal,
            PatternType::Prefixed => &mut self.prefixed,
        }
    }

    /// Adds a rule that was checked; one that is there already changes nothing.
    pub(crate) fn insert(&mut self, acl: Acl) {
        let Acl { resource, pattern, name, principal, host, operation, permission } = acl;
        let length = name.len();
        let names = self.of_pattern_mut(pattern).entry(resource).or_default();
        let is_new_name = !names.contains_key(&name);
        let added = names.entry(name).or_default().insert(Rule { principal, host, operation, permission });
        self.count += usize::from(added);
        if is_new_name && pattern == PatternType::Prefixed {
            *self.lengths.entry(resource).or_default().entry(length).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, acl: &Acl) {
        let names = self.of_pattern_mut(acl.pattern).get_mut(&acl.resource);
        let Some(names) = names else { return };
        let Some(rules) = names.get_mut(&acl.name) else { return };
        let before = rules.len();
        rules.retain(|rule| {
            (&rule.principal, &rule.host, rule.operation, rule.permission)
                != (&acl.principal, &acl.host, acl.operation, acl.permission)
        });
        let removed = before - rules.len();
        let name_gone = rules.is_empty();
        if name_gone {
            names.remove(&acl.name);
        }
        let type_gone = names.is_empty();
        if type_gone {
            self.of_pattern_mut(acl.pattern).remove(&acl.resource);
        }
        self.count -= removed;
        if name_gone && acl.pattern == PatternType::Prefixed {
            self.forget_length(acl.resource, acl.name.len());
        }
    }

    fn forget_length(&mut self, resource: ResourceType, length: usize) {
        let Some(lengths) = self.lengths.get_mut(&resource) else { return };
        if let Some(count) = lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&length);
            }
        }
        if lengths.is_empty() {
            self.lengths.remove(&resource);
        }
    }
}

fn acl(resource: ResourceType, pattern: PatternType, name: &str, rule: &Rule) -> Acl {
    let Rule { principal, host, operation, permission } = rule.clone();
    Acl { resource, pattern, name: name.to_owned(), principal, host, operation, permission }
}

impl Acl {
    /// Refuses what no rule can be.
    ///
    /// # Errors
    /// [`MetadataError::InvalidRequest`].
    pub fn check(&self) -> Result<(), MetadataError> {
        let wrong = |why: String| Err(MetadataError::InvalidRequest(why));
        let most = limits::MAX_ACL_TEXT;
        if self.name.is_empty() || self.name.len() > most {
            return wrong(format!("an ACL's resource name has 1 to {most} bytes, this one {}", self.name.len()));
        }
        if self.resource == ResourceType::Cluster && (self.name != CLUSTER_NAME || self.pattern != PatternType::Literal)
        {
            return wrong(format!("the only name of the CLUSTER resource is {CLUSTER_NAME}, as a literal"));
        }
        let named = self.principal.split_once(':').is_some_and(|(kind, name)| !kind.is_empty() && !name.is_empty());
        if !named || self.principal.len() > most {
            return wrong("an ACL's principal is of the form TYPE:NAME, for example User:alice".into());
        }
        if self.host.is_empty() || self.host.len() > most {
            return wrong(format!("an ACL's host is an address or {WILDCARD}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Acl {
        let words: Vec<&str> = text.split(' ').collect();
        let [permission, principal, host, operation, pattern, name] = words[..] else { panic!("{text}") };
        let parse = |word: &str| serde_json::from_str(&format!("\"{word}\"")).unwrap();
        Acl {
            resource: ResourceType::Topic,
            pattern: serde_json::from_str(&format!("\"{pattern}\"")).unwrap(),
            name: name.into(),
            principal: format!("User:{principal}"),
            host: host.into(),
            operation: parse(operation),
            permission: serde_json::from_str(&format!("\"{permission}\"")).unwrap(),
        }
    }

    fn acls(rules: &[&str]) -> Acls {
        let mut acls = Acls::default();
        rules.iter().for_each(|text| acls.insert(rule(text)));
        acls
    }

    fn ask(rules: &[&str], user: &str, operation: Operation, topic: &str) -> Decision {
        let principal = format!("User:{user}");
        let asker = Asker { principal: &principal, host: "10.0.0.1" };
        acls(rules).decide(&asker, operation, ResourceType::Topic, topic)
    }

    #[test]
    fn names_prefixes_and_wildcards() {
        use Decision::{Allowed, Denied, NoRule};
        for (rules, topic, wanted) in [
            (&[][..], "a", NoRule),
            (&["allow alice * read literal a"][..], "a", Allowed),
            (&["allow alice * read literal a"], "ab", NoRule),
            (&["allow alice * read prefixed a"], "ab", Allowed),
            (&["allow alice * read prefixed ab"], "a", NoRule),
            (&["allow alice * read prefixed äb"], "äbc", Allowed),
            (&["allow alice * read prefixed a"], "ä", NoRule),
            (&["allow alice * read literal *"], "b", Allowed),
            (&["allow bob * read literal a"], "a", Denied),
            (&["allow * * read literal a"], "a", Allowed),
            (&["allow alice 10.0.0.2 read literal a"], "a", Denied),
            (&["allow alice 10.0.0.1 read literal a"], "a", Allowed),
            (&["allow alice * write literal a"], "a", Denied),
            (&["allow alice * all literal a"], "a", Allowed),
            (&["allow alice * all literal *", "deny alice * read prefixed a"], "ab", Denied),
            (&["allow alice * all literal *", "deny * * read literal ab"], "ab", Denied),
            (&["allow alice * all literal *", "deny alice * write literal ab"], "ab", Allowed),
            (&["allow alice * all literal *", "deny bob * all literal *"], "ab", Allowed),
        ] {
            assert_eq!(ask(rules, "alice", Operation::Read, topic), wanted, "{rules:?} {topic}");
        }
    }

    #[test]
    fn some_operations_imply_seeing() {
        for (operation, see, see_configs) in [
            ("read", true, false),
            ("write", true, false),
            ("delete", true, false),
            ("alter", true, false),
            ("create", false, false),
            ("alter_configs", false, true),
            ("all", true, true),
        ] {
            let rules = format!("allow a * {operation} literal t");
            let may = |wanted| ask(&[&rules], "a", wanted, "t") == Decision::Allowed;
            assert_eq!((may(Operation::Describe), may(Operation::DescribeConfigs)), (see, see_configs), "{operation}");
            let denied = format!("deny a * {operation} literal t");
            let still = ask(&["allow a * all literal t", &denied], "a", Operation::Describe, "t");
            let wanted = if operation == "all" { Decision::Denied } else { Decision::Allowed };
            assert_eq!(still, wanted, "what is denied implies nothing: {operation}");
        }
    }

    #[test]
    fn some_resource_of_a_kind() {
        use Decision::{Allowed, Denied, NoRule};
        for (rules, wanted) in [
            (&[][..], NoRule),
            (&["allow a * write literal t"][..], Allowed),
            (&["allow b * write literal t"], Denied),
            (&["allow a * write literal t", "deny a * write literal t"], Denied),
            (&["allow a * write prefixed tt", "deny a * write prefixed t"], Denied),
            (&["allow a * write prefixed t", "deny a * write prefixed tt"], Allowed),
            (&["allow a * write literal t", "deny a * all literal *"], Denied),
            (&["allow a * write literal *", "deny a * write literal t"], Allowed),
        ] {
            let asker = Asker { principal: "User:a", host: "h" };
            let decision = acls(rules).decide_for_some(&asker, Operation::Write, ResourceType::Topic);
            assert_eq!(decision, wanted, "{rules:?}");
        }
    }

    #[test]
    fn what_is_added_and_removed_leaves_nothing() {
        let all = [
            "allow a * read literal t",
            "deny a * read literal t",
            "allow a * read prefixed t",
            "allow a * read prefixed u",
            "allow a * read prefixed uu",
        ];
        let mut some = acls(&all);
        some.insert(rule(all[0]));
        assert_eq!((some.len(), some.iter().count()), (5, 5));
        for text in all {
            some.remove(&rule(text));
            some.remove(&rule(text));
        }
        assert_eq!(some, Acls::default());
    }

    #[test]
    fn filters() {
        let any = AclFilter {
            resource: None,
            pattern: PatternFilter::Any,
            name: None,
            principal: None,
            host: None,
            operation: None,
            permission: None,
        };
        let all = acls(&["allow a * read literal t", "allow b * read prefixed t", "deny a * all literal *"]);
        let count = |filter: AclFilter| all.iter().filter(|acl| filter.matches(acl)).count();
        assert_eq!(count(any.clone()), 3);
        let named = |pattern, name: &str| AclFilter { pattern, name: Some(name.into()), ..any.clone() };
        assert_eq!(count(named(PatternFilter::Any, "t")), 2);
        assert_eq!(count(named(PatternFilter::Match, "t")), 3);
        assert_eq!(count(named(PatternFilter::Match, "tt")), 2);
        assert_eq!(count(named(PatternFilter::Only(PatternType::Prefixed), "t")), 1);
        assert_eq!(count(AclFilter { principal: Some("User:a".into()), ..any.clone() }), 2);
        assert_eq!(count(AclFilter { permission: Some(Permission::Deny), ..any.clone() }), 1);
        assert_eq!(count(AclFilter { operation: Some(Operation::Read), ..any.clone() }), 2);
        assert_eq!(count(AclFilter { host: Some("h".into()), ..any.clone() }), 0);
        assert_eq!(count(AclFilter { resource: Some(ResourceType::Group), ..any }), 0);
    }

    #[test]
    fn what_no_rule_can_be() {
        let good = rule("allow a * read literal t");
        assert_eq!(good.check(), Ok(()));
        for bad in [
            Acl { name: String::new(), ..good.clone() },
            Acl { name: "x".repeat(2_000), ..good.clone() },
            Acl { principal: "alice".into(), ..good.clone() },
            Acl { principal: "User:".into(), ..good.clone() },
            Acl { host: String::new(), ..good.clone() },
            Acl { resource: ResourceType::Cluster, ..good },
        ] {
            assert!(matches!(bad.check(), Err(MetadataError::InvalidRequest(_))), "{bad:?}");
        }
    }
}
