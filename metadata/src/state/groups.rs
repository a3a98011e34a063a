//! What the cluster keeps about groups, and the levels of its features. Checks first, then one change.

use std::collections::BTreeMap;

use super::{Change, Metadata, limits};
use crate::{ConfigKey, MetadataError, feature, features, group_config_key};

/// Configuration entries that differ from the defaults.
type Entries = BTreeMap<&'static str, String>;

impl Metadata {
    /// What is set for a group; nothing for most.
    #[must_use]
    pub fn group_config(&self, group: &str, name: &str) -> Option<&str> {
        self.group_configs.get(group)?.get(name).map(String::as_str)
    }

    /// The groups for which something is set.
    pub fn configured_groups(&self) -> impl Iterator<Item = &str> {
        self.group_configs.keys().map(String::as_str)
    }

    /// The level of a feature; `None` if there is no such feature.
    #[must_use]
    pub fn feature_level(&self, name: &str) -> Option<i16> {
        let feature = feature(name)?;
        Some(self.features.get(feature.name).copied().unwrap_or(feature.default))
    }

    /// Grows with each change of a level.
    #[must_use]
    pub fn features_epoch(&self) -> i64 {
        self.features_epoch
    }

    pub(super) fn altered_group(
        &self,
        group: &str,
        set: &BTreeMap<String, Option<String>>,
    ) -> Result<Entries, MetadataError> {
        if group.is_empty() || group.len() > limits::MAX_GROUP_ID {
            return Err(MetadataError::InvalidRequest(format!(
                "a group id has 1 to {} bytes, this one {}",
                limits::MAX_GROUP_ID,
                group.len()
            )));
        }
        let mut entries = self.group_configs.get(group).cloned().unwrap_or_default();
        for (name, value) in set {
            match value {
                Some(value) => {
                    let key = known_key(name)?;
                    entries.insert(key.name, key.check(value)?);
                }
                // Nobody has set what nobody knows: it has its default already.
                None => drop(entries.remove(name.as_str())),
            }
        }
        let known = self.group_configs.contains_key(group) || entries.is_empty();
        if !known && self.group_configs.len() >= limits::MAX_CONFIGURED_GROUPS {
            return Err(MetadataError::LimitReached(format!(
                "at most {} groups have a configuration of their own",
                limits::MAX_CONFIGURED_GROUPS
            )));
        }
        Ok(entries)
    }

    pub(super) fn alter_group_configs(
        &mut self,
        group: String,
        set: &BTreeMap<String, Option<String>>,
    ) -> Result<Change, MetadataError> {
        let entries = self.altered_group(&group, set)?;
        if entries.is_empty() {
            self.group_configs.remove(&group);
        } else {
            self.group_configs.insert(group.clone(), entries);
        }
        Ok(Change::GroupConfigsAltered { group })
    }

    pub(super) fn update_features(&mut self, levels: &BTreeMap<String, i16>) -> Result<Change, MetadataError> {
        let levels = checked_levels(levels)?;
        for (name, level) in levels {
            if self.feature_level(name) != Some(level) {
                self.features.insert(name, level);
                self.features_epoch += 1;
            }
        }
        Ok(Change::FeaturesUpdated)
    }
}

fn known_key(name: &str) -> Result<&'static ConfigKey, MetadataError> {
    group_config_key(name).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        MetadataError::InvalidConfig(format!("unknown group configuration '{shown}'"))
    })
}

/// Levels that there are.
pub(crate) fn checked_levels(levels: &BTreeMap<String, i16>) -> Result<BTreeMap<&'static str, i16>, MetadataError> {
    let check = |(name, level): (&String, &i16)| {
        let shown: String = name.chars().take(100).collect();
        let Some(feature) = feature(name) else {
            let known: Vec<&str> = features().iter().map(|feature| feature.name).collect();
            let text = format!("there is no feature '{shown}'; there are {}", known.join(", "));
            return Err(MetadataError::InvalidFeature(text));
        };
        if (feature.min..=feature.max).contains(level) {
            return Ok((feature.name, *level));
        }
        let text = format!("feature {shown} has levels from {} to {}, not {level}", feature.min, feature.max);
        Err(MetadataError::InvalidFeature(text))
    };
    levels.iter().map(check).collect()
}

pub(crate) fn check_group_configs(configs: &BTreeMap<String, String>) -> Result<Entries, MetadataError> {
    let check = |(name, value): (&String, &String)| {
        let key = known_key(name)?;
        Ok((key.name, key.check(value)?))
    };
    configs.iter().map(check).collect()
}
