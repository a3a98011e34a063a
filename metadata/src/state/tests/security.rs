//! Rules, credentials and quotas as commands.

use super::*;
use crate::acl::{Acl, AclFilter, Operation, PatternFilter, PatternType, Permission, ResourceType};
use crate::quota::{QuotaEntity, QuotaKey, QuotaName, QuotaValue};
use crate::{ScramCredential, ScramMechanism};

pub(super) fn acl(name: &str) -> Acl {
    Acl {
        resource: ResourceType::Topic,
        pattern: PatternType::Literal,
        name: name.into(),
        principal: "User:a".into(),
        host: "*".into(),
        operation: Operation::Read,
        permission: Permission::Allow,
    }
}

pub(super) fn set_scram(user: &str) -> Command {
    let credential =
        ScramCredential { salt: vec![1, 2], iterations: 4096, stored_key: vec![3; 32], server_key: vec![4; 32] };
    Command::SetScram { user: user.into(), mechanism: ScramMechanism::Sha256, credential }
}

pub(super) fn quota(limit: Option<f64>) -> Command {
    let entity = QuotaEntity { user: Some(QuotaName::Named("a".into())), ..QuotaEntity::default() };
    let set = BTreeMap::from([(QuotaKey::ConsumerByteRate, limit.map(|limit| QuotaValue::new(limit).unwrap()))]);
    Command::AlterQuotas { entity, set }
}

#[test]
fn rules_come_and_go() {
    let mut state = Metadata::default();
    assert_eq!(state.done(Command::CreateAcls { acls: vec![acl("t"), acl("u"), acl("t")] }), Change::AclsCreated);
    assert_eq!(state.acls().len(), 2);
    let bad = Command::CreateAcls { acls: vec![acl("v"), acl("")] };
    assert!(matches!(state.refused(bad), MetadataError::InvalidRequest(_)), "all or none");
    let filter = |name: &str| AclFilter {
        resource: None,
        pattern: PatternFilter::Any,
        name: Some(name.into()),
        principal: None,
        host: None,
        operation: None,
        permission: None,
    };
    let deleted = state.done(Command::DeleteAcls { filters: vec![filter("t"), filter("x")] });
    assert_eq!(deleted, Change::AclsDeleted(vec![vec![acl("t")], vec![]]));
    assert_eq!(state.acls().iter().collect::<Vec<_>>(), [acl("u")]);
}

#[test]
fn credentials_come_and_go_and_are_not_shown() {
    let mut state = Metadata::default();
    let set = set_scram("alice");
    assert!(!format!("{set:?}").contains('3'), "{set:?}");
    state.done(set);
    assert!(state.scram("alice", ScramMechanism::Sha256).is_some());
    assert!(state.scram("alice", ScramMechanism::Sha512).is_none());
    let remove = |mechanism| Command::RemoveScram { user: "alice".into(), mechanism };
    assert!(matches!(state.refused(remove(ScramMechanism::Sha512)), MetadataError::UnknownCredential(_)));
    state.done(remove(ScramMechanism::Sha256));
    assert_eq!(state, Metadata::default());
    assert!(matches!(state.refused(set_scram("")), MetadataError::InvalidRequest(_)));
}

#[test]
fn quotas_come_and_go() {
    let mut state = Metadata::default();
    state.done(quota(Some(0.1)));
    assert_eq!(state.quotas().len(), 1);
    state.done(quota(None));
    assert_eq!(state, Metadata::default());
    let named = |name: &str| Some(QuotaName::Named(name.into()));
    for entity in [
        QuotaEntity::default(),
        QuotaEntity { user: named("a"), ip: named("1.2.3.4"), ..QuotaEntity::default() },
        QuotaEntity { user: named(""), ..QuotaEntity::default() },
        QuotaEntity { ip: named("here"), ..QuotaEntity::default() },
        QuotaEntity { ip: named("1.2.3.4"), ..QuotaEntity::default() },
    ] {
        let set = BTreeMap::from([(QuotaKey::ProducerByteRate, QuotaValue::new(1.0))]);
        let refused = state.refused(Command::AlterQuotas { entity, set });
        assert!(matches!(refused, MetadataError::InvalidRequest(_)));
    }
    assert_eq!([0.0, -1.0, f64::NAN, f64::INFINITY].map(QuotaValue::new), [None; 4]);
}
