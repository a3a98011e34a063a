//! What callers may do: the rules of the metadata, the users that may do everything, and what holds where there is no rule.

use serde::Deserialize;
use wherry_metadata::acl::{Acls, Asker, Decision, Operation, ResourceType};

use super::Caller;

/// Settings of authorization; without them everybody may do everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationConfig {
    /// Principals that may do everything, such as `User:admin`.
    pub super_users: Vec<String>,
    /// Whether everybody may do everything with a resource that no ACL is about.
    pub allow_everyone_if_no_acl_found: bool,
}

impl AuthorizationConfig {
    pub(crate) fn validate(&self) -> Result<(), String> {
        let bad = |name: &&String| !name.split_once(':').is_some_and(|(kind, name)| kind == "User" && !name.is_empty());
        match self.super_users.iter().find(bad) {
            Some(bad) => Err(format!("authorization.super_users: '{bad}' is not of the form User:NAME")),
            None => Ok(()),
        }
    }

    fn is_super(&self, caller: &Caller) -> bool {
        self.super_users.iter().any(|name| name == caller.principal.qualified())
    }

    fn settles(&self, decision: Decision) -> bool {
        match decision {
            Decision::Allowed => true,
            Decision::Denied => false,
            Decision::NoRule => self.allow_everyone_if_no_acl_found,
        }
    }

    /// Whether the caller may do this with that resource.
    #[must_use]
    pub fn allows(
        &self,
        acls: &Acls,
        caller: &Caller,
        operation: Operation,
        resource: ResourceType,
        name: &str,
    ) -> bool {
        self.is_super(caller) || self.settles(acls.decide(&asker(caller), operation, resource, name))
    }

    /// Whether the caller may do this with some resource of that kind.
    #[must_use]
    pub fn allows_some(&self, acls: &Acls, caller: &Caller, operation: Operation, resource: ResourceType) -> bool {
        self.is_super(caller) || self.settles(acls.decide_for_some(&asker(caller), operation, resource))
    }
}

fn asker(caller: &Caller) -> Asker<'_> {
    Asker { principal: caller.principal.qualified(), host: &caller.host_text }
}

/// Operations as bits of KIP-430.
#[must_use]
pub fn bits(operations: impl Iterator<Item = Operation>) -> i32 {
    operations.fold(0, |bits, operation| bits | 1 << operation.code())
}
