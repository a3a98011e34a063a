//! Reads the files of `wherry up`: checked resources that fit together, and settings that the node knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wherry_metadata::config_key;
use wherry_operator::crd::{
    self, API_VERSION, Cluster, ClusterSpec, ConsumerGroup, Document, LoadErrors, Metadata, Resource, Topic,
};

use crate::exit;

/// What the files want.
#[derive(Debug)]
pub(super) struct Resources {
    pub(super) cluster: Cluster,
    pub(super) topics: Vec<Topic>,
    pub(super) groups: Vec<ConsumerGroup>,
}

/// Most files that are read.
const FILES_MAX: usize = 1000;

impl Resources {
    /// Reads files, and the `.yaml` and `.yml` files of directories. Without any: one node with defaults.
    pub(super) fn load(paths: &[PathBuf]) -> Result<Self> {
        if paths.is_empty() {
            return Ok(Self { cluster: usual_cluster(), topics: Vec::new(), groups: Vec::new() });
        }
        let mut documents: Vec<Document> = Vec::new();
        let mut wrong = Vec::new();
        for path in files(paths)? {
            let text = read(&path)?;
            match crd::load(&path.display().to_string(), &text) {
                Ok(more) => documents.extend(more),
                Err(LoadErrors(errors)) => wrong.extend(errors),
            }
        }
        if wrong.is_empty() {
            crd::check_set(&documents).unwrap_or_else(|LoadErrors(errors)| wrong = errors);
        }
        if !wrong.is_empty() {
            return Err(exit::usage(format!("these files can't be used:\n{}", LoadErrors(wrong))));
        }
        let resources = Self::sort(documents)?;
        resources.check_settings()?;
        Ok(resources)
    }

    fn sort(documents: Vec<Document>) -> Result<Self> {
        let (mut cluster, mut topics, mut groups) = (None, Vec::new(), Vec::new());
        for document in documents {
            match document.resource {
                Resource::Cluster(found) => cluster = Some(found),
                Resource::Topic(topic) => topics.push(topic),
                Resource::ConsumerGroup(group) => groups.push(group),
            }
        }
        Ok(Self { cluster: cluster.context("there is no Cluster")?, topics, groups })
    }

    /// Settings by their names on the wire are the node's to know; a bad one must not be found after others were applied.
    fn check_settings(&self) -> Result<()> {
        for topic in &self.topics {
            for (key, value) in topic.wire_config() {
                let known = config_key(&key).ok_or_else(|| "no such setting".to_owned());
                let checked = known.and_then(|known| known.check(&value).map_err(|error| error.to_string()));
                checked.map_err(|why| exit::usage(format!("Topic {}: setting {key}: {why}", topic.metadata.name)))?;
            }
        }
        Ok(())
    }
}

fn usual_cluster() -> Cluster {
    Cluster {
        api_version: API_VERSION.into(),
        kind: Cluster::KIND.into(),
        metadata: Metadata { name: "local".into(), ..Metadata::default() },
        spec: ClusterSpec { replicas: 1, ..ClusterSpec::default() },
    }
}

fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(yaml_files(path)?);
        } else {
            files.push(path.clone());
        }
    }
    if files.len() > FILES_MAX {
        return Err(exit::usage(format!("these are {} files, more than {FILES_MAX}; name fewer", files.len())));
    }
    Ok(files)
}

fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("can't read {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path);
    text.map_err(|error| exit::usage(format!("can't read {}: {error}; name a file with a Cluster", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart.yaml");

    #[test]
    fn the_quickstart_is_read() {
        let resources = Resources::load(&[QUICKSTART.into()]).unwrap();
        assert_eq!((resources.topics.len(), resources.groups.len()), (2, 1));
    }

    #[test]
    fn without_files_there_is_a_cluster_that_works() {
        let resources = Resources::load(&[]).unwrap();
        assert_eq!(Resource::Cluster(resources.cluster).validate(), Ok(()));
    }

    #[test]
    fn bad_files_are_refused_with_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let write = |topic: &str| {
            let head =
                "apiVersion: wherry.dev/v1alpha1\nkind: Cluster\nmetadata: {name: c}\nspec: {replicas: 1}\n---\n";
            let text = format!(
                "{head}apiVersion: wherry.dev/v1alpha1\nkind: Topic\nmetadata: {{name: t}}\nspec:\n  clusterRef: {{name: c}}\n{topic}"
            );
            fs::write(directory.path().join("a.yaml"), text).unwrap();
            Resources::load(&[directory.path().into()]).map(|_| ()).unwrap_err().to_string()
        };
        assert!(write("  partitions: 0\n").contains("a.yaml:11"));
        assert!(write("  config: {segment.bytes: '5'}\n").contains("segment.bytes"));
        assert!(write("  config: {no.such.setting: '5'}\n").contains("no such setting"));
        assert!(Resources::load(&["/no/such/file.yaml".into()]).is_err());
    }

    #[test]
    fn limits_agree_with_the_nodes() {
        assert_eq!(crd::PARTITIONS_MAX, i64::from(wherry_metadata::limits::MAX_PARTITIONS_PER_TOPIC));
        assert_eq!(crd::TOPIC_NAME_BYTES_MAX, wherry_metadata::MAX_TOPIC_NAME);
    }
}
