//! Cluster: the nodes that keep topics.

use serde::{Deserialize, Serialize};

use super::problem::Checker;
use super::{DeletionPolicy, Durability, Metadata, PARTITIONS_MAX, Problems, Unbuilt};

/// A cluster of log nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// Always [`super::API_VERSION`].
    pub api_version: String,
    /// Always `Cluster`.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(default)]
    pub spec: ClusterSpec,
}

/// What is wanted of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSpec {
    /// Version of Wherry that its nodes run; absent: that of this program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Number of nodes.
    pub replicas: i64,
    /// Volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Unbuilt>,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Failure domains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rack: Option<Unbuilt>,
    /// For topics that do not say.
    pub defaults: Defaults,
    /// How nodes are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<Unbuilt>,
    /// How nodes are taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_in: Option<Unbuilt>,
    /// Pod disruption budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<Unbuilt>,
    /// How nodes do their I/O.
    pub io: Io,
    /// Encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Unbuilt>,
    /// Scraping and dashboards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Unbuilt>,
    /// Pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<Unbuilt>,
    /// Who else may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<Unbuilt>,
    /// Quotas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Unbuilt>,
    /// Leave everything as it is.
    pub paused: bool,
    /// Run no node.
    pub stopped: bool,
    /// What becomes of the volumes.
    pub deletion_policy: DeletionPolicy,
    /// Whether deleting the resource is refused.
    pub deletion_protection: bool,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            version: None,
            replicas: 3,
            storage: None,
            listeners: Vec::new(),
            rack: None,
            defaults: Defaults::default(),
            update: None,
            scale_in: None,
            pod_disruption_budget: None,
            io: Io::default(),
            tls: None,
            monitoring: None,
            template: None,
            allowed_namespaces: None,
            tenants: None,
            paused: false,
            stopped: false,
            deletion_policy: DeletionPolicy::Retain,
            deletion_protection: true,
        }
    }
}

/// One address that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Its name, unique in the cluster.
    pub name: String,
    /// TCP port.
    pub port: i64,
    /// Who can reach it.
    #[serde(default, rename = "type")]
    pub kind: ListenerType,
    /// Encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Unbuilt>,
    /// Who may connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Unbuilt>,
}

/// Who can reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ListenerType {
    /// Those inside: the pods of Kubernetes; this machine under `wherry up`.
    #[default]
    Internal,
    /// By a port of each machine. Not built yet.
    NodePort,
    /// By a load balancer. Not built yet.
    LoadBalancer,
}

/// Settings of topics that do not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Defaults {
    /// Partitions.
    pub partitions: i64,
    /// Copies of each; absent: the smaller of 3 and the number of nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Copies that an acknowledgement speaks of; absent: the majority of `replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_in_sync: Option<i64>,
    /// When an append counts as acknowledged.
    pub durability: Durability,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { partitions: 3, replicas: None, min_in_sync: None, durability: Durability::Disk }
    }
}

/// How nodes do their I/O.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Io {
    /// Which driver.
    pub engine: IoEngine,
    /// Profile of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<Unbuilt>,
}

/// Which driver owns sockets and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IoEngine {
    /// io_uring where it is permitted, threads elsewhere.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// Threads and plain system calls.
    Threads,
}

impl Cluster {
    /// As it is written under `kind`.
    pub const KIND: &'static str = "Cluster";

    /// Refuses what can't be, and what is not built yet.
    ///
    /// # Errors
    /// Every problem with its path.
    pub fn validate(&self) -> Result<(), Problems> {
        let mut check = Checker::default();
        check.name("metadata.name", &self.metadata.name);
        self.spec.check(&mut check);
        check.done()
    }

    /// Port that clients connect to; absent: the usual one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.spec.listeners.first().and_then(|listener| u16::try_from(listener.port).ok())
    }
}

/// Numbers of nodes that a cluster may have: all of them vote, and an even number would add nothing.
const NODES: [i64; 3] = [1, 3, 5];
/// Copies of a partition where nobody says, if there are so many nodes.
const USUAL_REPLICAS: i64 = 3;

impl ClusterSpec {
    /// Copies of each partition of a topic that does not say.
    #[must_use]
    pub fn default_replicas(&self) -> i64 {
        self.defaults.replicas.unwrap_or(self.replicas.min(USUAL_REPLICAS))
    }

    /// Copies that an acknowledgement speaks of, for a topic that does not say.
    #[must_use]
    pub fn default_min_in_sync(&self) -> i64 {
        self.defaults.min_in_sync.unwrap_or(self.default_replicas() / 2 + 1)
    }

    fn check(&self, check: &mut Checker) {
        let ours = env!("CARGO_PKG_VERSION");
        if let Some(version) = self.version.as_deref().filter(|version| *version != ours) {
            check.refuse(
                "spec.version",
                format!("is {version:?}, but this is version {ours}; write {ours:?} or leave it out"),
            );
        }
        check.refuse_if(!NODES.contains(&self.replicas), "spec.replicas", || {
            format!("is {}; write 1, 3 or 5 (3 is the default)", self.replicas)
        });
        self.defaults.check(self, check);
        self.check_listeners(check);
        self.check_unbuilt(check);
        check.refuse_if(self.paused, "spec.paused", || "not built yet; leave it out or write false".into());
        check.refuse_if(self.stopped, "spec.stopped", || {
            "not built yet; leave it out, and stop the process instead".into()
        });
        check.refuse_if(self.deletion_policy != DeletionPolicy::Retain, "spec.deletionPolicy", || {
            "only Retain is built; write Retain or leave it out, and remove the data by hand".into()
        });
        check.refuse_if(!self.deletion_protection, "spec.deletionProtection", || {
            "only true is built: nothing deletes a Cluster; write true or leave it out".into()
        });
    }

    fn check_listeners(&self, check: &mut Checker) {
        for (n, listener) in self.listeners.iter().enumerate() {
            let path = format!("spec.listeners[{n}]");
            listener.check(&path, check);
            let again = self.listeners.iter().take(n).any(|other| other.name == listener.name);
            check.refuse_if(again, &format!("{path}.name"), || {
                format!("{:?} is the name of an earlier listener; write another", listener.name)
            });
        }
        check.refuse_if(self.listeners.len() > 1, "spec.listeners[1]", || {
            "only one listener is built; remove it".into()
        });
    }

    fn check_unbuilt(&self, check: &mut Checker) {
        let fields = [
            (&self.storage, "spec.storage", "`wherry up` keeps data in the directory given by --data."),
            (&self.rack, "spec.rack", "A node is told its rack by `wherry node --rack`."),
            (&self.update, "spec.update", "Restart the node to update it."),
            (&self.scale_in, "spec.scaleIn", "The number of nodes can't be changed yet."),
            (&self.pod_disruption_budget, "spec.podDisruptionBudget", "There are no pods yet."),
            (
                &self.io.seccomp_profile,
                "spec.io.seccompProfile",
                "Where io_uring is forbidden, nodes use threads by themselves.",
            ),
            (&self.tls, "spec.tls", "Connections are not encrypted: keep listeners on networks that you trust."),
            (&self.monitoring, "spec.monitoring", "Scrape /metrics of node and sidecar."),
            (&self.template, "spec.template", "There are no pods yet."),
            (&self.allowed_namespaces, "spec.allowedNamespaces", "There is one namespace."),
            (&self.tenants, "spec.tenants", "There are no quotas yet."),
        ];
        for (field, path, instead) in fields {
            check.unbuilt(field.as_ref(), path, instead);
        }
    }
}

impl Listener {
    fn check(&self, path: &str, check: &mut Checker) {
        check.name(&format!("{path}.name"), &self.name);
        check.range(&format!("{path}.port"), self.port, 1, 65_535);
        check.refuse_if(self.kind != ListenerType::Internal, &format!("{path}.type"), || {
            "only Internal is built; write Internal or leave it out".into()
        });
        check.unbuilt(
            self.tls.as_ref(),
            &format!("{path}.tls"),
            "Connections are not encrypted: keep listeners on networks that you trust.",
        );
        check.unbuilt(
            self.authentication.as_ref(),
            &format!("{path}.authentication"),
            "Whoever reaches a listener may use it: keep it on networks that you trust.",
        );
    }
}

impl Defaults {
    fn check(&self, cluster: &ClusterSpec, check: &mut Checker) {
        check.range("spec.defaults.partitions", self.partitions, 1, PARTITIONS_MAX);
        check.at_most("spec.defaults.replicas", self.replicas, cluster.replicas, "nodes of the cluster");
        check.at_most("spec.defaults.minInSync", self.min_in_sync, cluster.default_replicas(), "copies of a partition");
        check.refuse_if(self.durability != Durability::Disk, "spec.defaults.durability", || {
            "only Disk is built: an append is on stable storage before it is acknowledged; write Disk or leave it out".into()
        });
    }
}
