//! What is known of users: rules, credentials, quotas.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Change, Metadata, limits};
use crate::MetadataError;
use crate::acl::{Acl, AclFilter, Acls};
use crate::quota::{QuotaEntity, QuotaKey, QuotaSet, QuotaValue};
use crate::scram::{ScramCredential, ScramMechanism};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security {
    acls: Acls,
    scram: BTreeMap<String, BTreeMap<ScramMechanism, ScramCredential>>,
    quotas: BTreeMap<QuotaEntity, QuotaSet>,
    /// Goes up with every change of rules or quotas: what was made of them is old then. Not part of the state.
    generation: Generation,
}

/// Equal to every other one.
#[derive(Debug, Clone, Copy, Default)]
struct Generation(u64);

impl PartialEq for Generation {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Generation {}

/// Lookups.
impl Metadata {
    /// The rules.
    #[must_use]
    pub fn acls(&self) -> &Acls {
        &self.security.acls
    }

    /// A user's credential for SCRAM.
    #[must_use]
    pub fn scram(&self, user: &str, mechanism: ScramMechanism) -> Option<&ScramCredential> {
        self.security.scram.get(user)?.get(&mechanism)
    }

    /// The users that have credentials for SCRAM, with them.
    #[must_use]
    pub fn scram_users(&self) -> &BTreeMap<String, BTreeMap<ScramMechanism, ScramCredential>> {
        &self.security.scram
    }

    /// The quotas.
    #[must_use]
    pub fn quotas(&self) -> &BTreeMap<QuotaEntity, QuotaSet> {
        &self.security.quotas
    }

    /// Another number after each change of rules or quotas, on this node.
    #[must_use]
    pub fn security_generation(&self) -> u64 {
        self.security.generation.0
    }
}

/// Changes.
impl Metadata {
    pub(super) fn check_scram(
        &self,
        user: &str,
        mechanism: ScramMechanism,
        credential: &ScramCredential,
    ) -> Result<(), MetadataError> {
        credential.check(user, mechanism)?;
        let room = self.security.scram.contains_key(user) || self.security.scram.len() < limits::MAX_SCRAM_USERS;
        room.then_some(()).ok_or_else(|| full("users with SCRAM credentials", limits::MAX_SCRAM_USERS))
    }

    pub(super) fn check_scram_known(&self, user: &str, mechanism: ScramMechanism) -> Result<(), MetadataError> {
        let known = self.scram(user, mechanism).is_some();
        known.then_some(()).ok_or_else(|| MetadataError::UnknownCredential(user.to_owned()))
    }

    pub(super) fn check_acls(&self, acls: &[Acl]) -> Result<(), MetadataError> {
        acls.iter().try_for_each(Acl::check)?;
        if self.security.acls.len() + acls.len() > limits::MAX_ACLS {
            return Err(full("ACLs", limits::MAX_ACLS));
        }
        Ok(())
    }

    pub(super) fn check_quotas(
        &self,
        entity: &QuotaEntity,
        set: &BTreeMap<QuotaKey, Option<QuotaValue>>,
    ) -> Result<(), MetadataError> {
        entity.check()?;
        set.keys().try_for_each(|key| entity.check_key(*key))?;
        let quotas = &self.security.quotas;
        if !quotas.contains_key(entity) && quotas.len() >= limits::MAX_QUOTAS {
            return Err(full("entities with quotas", limits::MAX_QUOTAS));
        }
        Ok(())
    }

    pub(super) fn create_acls(&mut self, acls: Vec<Acl>) -> Result<Change, MetadataError> {
        self.check_acls(&acls)?;
        self.security.generation.0 += 1;
        acls.into_iter().for_each(|acl| self.security.acls.insert(acl));
        Ok(Change::AclsCreated)
    }

    pub(super) fn delete_acls(&mut self, filters: &[AclFilter]) -> Change {
        self.security.generation.0 += 1;
        let found = |filter: &AclFilter| self.security.acls.iter().filter(|acl| filter.matches(acl)).collect();
        let deleted: Vec<Vec<Acl>> = filters.iter().map(found).collect();
        deleted.iter().flatten().for_each(|acl| self.security.acls.remove(acl));
        Change::AclsDeleted(deleted)
    }

    pub(super) fn set_scram(
        &mut self,
        user: String,
        mechanism: ScramMechanism,
        credential: ScramCredential,
    ) -> Result<Change, MetadataError> {
        self.check_scram(&user, mechanism, &credential)?;
        self.security.scram.entry(user).or_default().insert(mechanism, credential);
        Ok(Change::ScramAltered)
    }

    pub(super) fn remove_scram(&mut self, user: &str, mechanism: ScramMechanism) -> Result<Change, MetadataError> {
        self.check_scram_known(user, mechanism)?;
        if let Some(of_user) = self.security.scram.get_mut(user) {
            of_user.remove(&mechanism);
            if of_user.is_empty() {
                self.security.scram.remove(user);
            }
        }
        Ok(Change::ScramAltered)
    }

    pub(super) fn alter_quotas(
        &mut self,
        entity: &QuotaEntity,
        set: BTreeMap<QuotaKey, Option<QuotaValue>>,
    ) -> Result<Change, MetadataError> {
        self.check_quotas(entity, &set)?;
        self.security.generation.0 += 1;
        let quotas = self.security.quotas.entry(entity.clone()).or_default();
        for (key, value) in set {
            match value {
                Some(value) => drop(quotas.insert(key, value)),
                None => drop(quotas.remove(&key)),
            }
        }
        if quotas.is_empty() {
            self.security.quotas.remove(entity);
        }
        Ok(Change::QuotasAltered)
    }
}

fn full(what: &str, most: usize) -> MetadataError {
    MetadataError::LimitReached(format!("a cluster has at most {most} {what}"))
}

/// As a snapshot has it.
#[derive(Serialize, Deserialize, Default, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SecurityRecord {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    acls: Vec<Acl>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    scram: BTreeMap<String, BTreeMap<ScramMechanism, ScramCredential>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quotas: Vec<(QuotaEntity, QuotaSet)>,
}

impl SecurityRecord {
    pub(crate) fn of(security: &Security) -> Self {
        Self {
            acls: security.acls.iter().collect(),
            scram: security.scram.clone(),
            quotas: security.quotas.iter().map(|(entity, set)| (entity.clone(), set.clone())).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn into_security(self) -> Result<Security, MetadataError> {
        let mut security = Security::default();
        let fits = self.acls.len() <= limits::MAX_ACLS
            && self.scram.len() <= limits::MAX_SCRAM_USERS
            && self.quotas.len() <= limits::MAX_QUOTAS;
        if !fits {
            return Err(MetadataError::Malformed("a snapshot has more users' settings than a cluster may have".into()));
        }
        for acl in self.acls {
            acl.check()?;
            security.acls.insert(acl);
        }
        for (user, of_user) in &self.scram {
            of_user.iter().try_for_each(|(mechanism, credential)| credential.check(user, *mechanism))?;
        }
        security.scram = self.scram;
        for (entity, set) in self.quotas {
            entity.check()?;
            set.keys().try_for_each(|key| entity.check_key(*key))?;
            security.quotas.insert(entity, set);
        }
        Ok(security)
    }
}
