//! The cluster as this client sees it: connections for calls, the metadata cache, and calls that find their broker.
//!
//! It knows brokers, leaders and coordinators; it knows nothing of batches, positions or groups' insides.

mod call;
pub(crate) mod codes;
mod metadata;
mod refresh;

pub(crate) use call::{CoordinatorKind, Target};
pub(crate) use metadata::{Broker, Metadata, PartitionMeta, TopicMeta, known};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::ClientConfig;
use crate::error::{ClientError, Result};
use crate::net::{Address, Connection, Link, NetError};

/// Everything that producers, consumers and admin calls of one client share.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: ClientConfig,
    bootstrap: Vec<Address>,
    links: Mutex<HashMap<Address, Arc<Link>>>,
    metadata: watch::Sender<Arc<Metadata>>,
    interest: Mutex<refresh::Interest>,
    wanted: Arc<Notify>,
    closed: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Cluster {
    /// Reaches the cluster: the first metadata is there when this returns.
    pub(crate) async fn connect(config: ClientConfig) -> Result<Arc<Self>> {
        config.check()?;
        let parse = |text: &String| {
            Address::parse(text).ok_or_else(|| ClientError::config(format!("bootstrap {text:?} is not host:port")))
        };
        let bootstrap = config.bootstrap.iter().map(parse).collect::<Result<Vec<_>>>()?;
        let cluster = Arc::new(Self {
            config,
            bootstrap,
            links: Mutex::default(),
            metadata: watch::Sender::new(Arc::default()),
            interest: Mutex::default(),
            wanted: Arc::default(),
            closed: CancellationToken::new(),
        });
        cluster.first_metadata().await?;
        let (wanted, closed) = (cluster.wanted.clone(), cluster.closed.clone());
        tokio::spawn(refresh::run(Arc::downgrade(&cluster), wanted, cluster.config.metadata_max_age, closed));
        Ok(cluster)
    }

    /// The metadata of now.
    pub(crate) fn metadata(&self) -> Arc<Metadata> {
        self.metadata.borrow().clone()
    }

    /// Tells of new metadata.
    pub(crate) fn watch_metadata(&self) -> watch::Receiver<Arc<Metadata>> {
        self.metadata.subscribe()
    }

    /// A shared connection for short calls to this broker.
    pub(crate) async fn connection(&self, address: &Address) -> Result<Arc<Connection>, NetError> {
        let link = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.entry(address.clone()).or_default().clone()
        };
        link.get(&self.config, address).await
    }

    /// Drops connections to addresses that are no longer of the cluster.
    fn forget_strangers(&self, metadata: &Metadata) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|a, _| self.bootstrap.contains(a) || metadata.brokers.values().any(|b| b.address == *a));
    }

    /// Where broker `id` listens, if it is known.
    pub(crate) fn address_of(&self, id: i32) -> Option<Address> {
        self.metadata.borrow().brokers.get(&id).map(|b| b.address.clone())
    }

    /// Addresses to ask when any broker will do: known ones first, then the bootstrap.
    fn anywhere(&self) -> Vec<Address> {
        let metadata = self.metadata();
        let mut addresses: Vec<_> = metadata.brokers.values().map(|b| b.address.clone()).collect();
        for address in &self.bootstrap {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }
}
