//! Copiers that read, write and commit in transactions, and the judgement over what they leave: each record exactly once for
//! those who read committed, and none that was aborted. It must not know what the brokers suffer meanwhile.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::Target;
use crate::clients::python;
use crate::process::Running;
use crate::records::{Received, Record, check_content, parse};

/// What a copier says at its end.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Copied {
    /// Records in transactions that committed.
    pub committed: usize,
    /// Transactions that were aborted on purpose.
    pub aborted: usize,
    /// Transactions that something happened to.
    pub failed: usize,
}

/// Copiers at work, from one topic to another.
#[derive(Debug)]
pub struct Copiers {
    running: Vec<Running>,
}

impl Copiers {
    /// Starts `count` of them, members of one group, each with a transactional id of its own.
    ///
    /// # Errors
    /// One did not get ready.
    pub fn start(target: &impl Target, from: &str, to: &str, count: usize, total: usize) -> Result<Copiers> {
        let brokers = target.brokers();
        let start = |n: usize| {
            let set = format!("copy {brokers} {from} {to} {from}-copiers {from}-copier-{n} {total}");
            target.place(python("transact.py").typed(&set)).deadline(3 * crate::PATIENCE).start()
        };
        let mut running = (0..count).map(start).collect::<Result<Vec<_>>>()?;
        for copier in &mut running {
            copier.line().context("a copier did not get ready")?;
        }
        Ok(Copiers { running })
    }

    /// Waits until all is copied.
    ///
    /// # Errors
    /// One failed.
    pub fn finish(self) -> Result<Copied> {
        let mut sum = Copied::default();
        for copier in self.running {
            for said in parse::<Copied>(&copier.rest()?)? {
                sum.committed += said.committed;
                sum.aborted += said.aborted;
                sum.failed += said.failed;
            }
        }
        Ok(sum)
    }
}

/// All of a topic, as one who reads committed records sees it, or one who reads all.
///
/// # Errors
/// It could not be read to its end.
pub fn read(target: &impl Target, topic: &str, isolation: &str) -> Result<Vec<Received>> {
    let set = format!("read {} {topic} {isolation}", target.brokers());
    parse(&target.place(python("transact.py").typed(&set)).run()?)
}

/// Each record once, and no other; those that were aborted are there for who wants to see them.
///
/// # Errors
/// What is wrong.
pub fn check_copy(target: &impl Target, topic: &str, sent: &[Record], copied: Copied) -> Result<()> {
    let committed = read(target, topic, "read_committed")?;
    check_content(sent, &committed).context("read committed")?;
    let all = read(target, topic, "read_uncommitted")?;
    ensure!(copied.aborted == 0 || all.len() > committed.len(), "nothing that was aborted was written at all");
    Ok(())
}
