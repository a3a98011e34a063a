//! Rules between the resources of one set: names once, references that lead somewhere. For `wherry up`, whose files are all
//! there is; in Kubernetes a reference may be fulfilled later.

use super::problem::{Located, Problem};
use super::{Cluster, ConsumerGroup, Document, LoadErrors, Reference, Resource, Topic};

/// Checks that documents fit together: exactly one Cluster, every name once, every reference fulfilled.
///
/// # Errors
/// Everything that does not fit.
pub fn check_set(documents: &[Document]) -> Result<(), LoadErrors> {
    let mut errors = Vec::new();
    check_clusters(documents, &mut errors);
    for (n, document) in documents.iter().enumerate() {
        let before = documents.get(..n).unwrap_or_default();
        let problems = match &document.resource {
            Resource::Cluster(_) => Vec::new(),
            Resource::Topic(topic) => check_topic(topic, before, documents),
            Resource::ConsumerGroup(group) => check_group(group, before, documents),
        };
        errors.extend(same_name(document, before).into_iter().chain(problems).map(|problem| document.locate(problem)));
    }
    if errors.is_empty() { Ok(()) } else { Err(LoadErrors(errors)) }
}

fn clusters(documents: &[Document]) -> impl Iterator<Item = (&Document, &Cluster)> {
    documents.iter().filter_map(|document| match &document.resource {
        Resource::Cluster(cluster) => Some((document, cluster)),
        Resource::Topic(_) | Resource::ConsumerGroup(_) => None,
    })
}

fn topics(documents: &[Document]) -> impl Iterator<Item = &Topic> {
    documents.iter().filter_map(|document| match &document.resource {
        Resource::Topic(topic) => Some(topic),
        Resource::Cluster(_) | Resource::ConsumerGroup(_) => None,
    })
}

fn groups(documents: &[Document]) -> impl Iterator<Item = &ConsumerGroup> {
    documents.iter().filter_map(|document| match &document.resource {
        Resource::ConsumerGroup(group) => Some(group),
        Resource::Cluster(_) | Resource::Topic(_) => None,
    })
}

fn check_clusters(documents: &[Document], errors: &mut Vec<Located>) {
    let mut all = clusters(documents);
    if all.next().is_none() {
        let file = documents.first().map(|document| document.file.clone()).unwrap_or_default();
        let problem = Problem { path: String::new(), says: "there is no Cluster; add one".into() };
        errors.push(Located { file, line: 0, resource: String::new(), problem });
    }
    for (document, _) in all {
        errors.push(document.locate(Problem { path: "kind".into(), says: "is a second Cluster; keep one".into() }));
    }
}

fn same_name(document: &Document, before: &[Document]) -> Option<Problem> {
    let this = &document.resource;
    let again = before.iter().any(|other| other.resource.kind() == this.kind() && other.resource.name() == this.name());
    again.then(|| Problem {
        path: "metadata.name".into(),
        says: format!("{:?} is the name of an earlier {}; write another", this.name(), this.kind()),
    })
}

fn check_reference(to: &Reference, documents: &[Document]) -> Option<Problem> {
    let names: Vec<_> = clusters(documents).map(|(_, cluster)| cluster.metadata.name.as_str()).collect();
    let known = names.is_empty() || names.contains(&to.name.as_str());
    (!known).then(|| Problem {
        path: "spec.clusterRef.name".into(),
        says: format!("there is no Cluster {:?}; write {}", to.name, names.join(" or ")),
    })
}

fn check_topic(topic: &Topic, before: &[Document], documents: &[Document]) -> Vec<Problem> {
    let twice = topics(before)
        .any(|other| other.topic_name() == topic.topic_name() && other.metadata.name != topic.metadata.name);
    let twice = twice.then(|| Problem {
        path: "spec.topicName".into(),
        says: format!("{:?} is declared by an earlier Topic; remove one of the two", topic.topic_name()),
    });
    let copies = check_copies(topic, documents);
    check_reference(&topic.spec.cluster_ref, documents).into_iter().chain(twice).chain(copies).collect()
}

/// No more copies than there are nodes, and no more in sync than copies.
fn check_copies(topic: &Topic, documents: &[Document]) -> Option<Problem> {
    let (_, cluster) = clusters(documents).next()?;
    let (replicas, minimum) = (topic.replicas_in(&cluster.spec), topic.min_in_sync_in(&cluster.spec));
    let nodes = cluster.spec.replicas;
    if replicas > nodes {
        let says = format!("is {replicas}, but the Cluster has {nodes} nodes; write {nodes} or fewer");
        return Some(Problem { path: "spec.replicas".into(), says });
    }
    (minimum > replicas).then(|| Problem {
        path: "spec.minInSync".into(),
        says: format!("is {minimum}, but there are {replicas} copies of each partition; write {replicas} or fewer"),
    })
}

fn check_group(group: &ConsumerGroup, before: &[Document], documents: &[Document]) -> Vec<Problem> {
    let twice =
        groups(before).any(|other| other.group_id() == group.group_id() && other.metadata.name != group.metadata.name);
    let twice = twice.then(|| Problem {
        path: "spec.groupId".into(),
        says: format!("{:?} is declared by an earlier ConsumerGroup; remove one of the two", group.group_id()),
    });
    let missing = group.spec.subscriptions.iter().enumerate().filter_map(|(n, subscription)| {
        let known = topics(documents).any(|topic| topic.topic_name() == subscription.topic);
        (!known).then(|| Problem {
            path: format!("spec.subscriptions[{n}].topic"),
            says: format!("no Topic here is called {:?}; declare it, or correct the name", subscription.topic),
        })
    });
    check_reference(&group.spec.cluster_ref, documents).into_iter().chain(twice).chain(missing).collect()
}
