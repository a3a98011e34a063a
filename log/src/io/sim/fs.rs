//! A file system in memory that knows what is durable and what is not. Pure: no tokens, no delays, no faults.
//!
//! Every file has two images and every directory two lists of entries:
//!
//! ```text
//! write ──► cache (what reads see) ──► dirty changes, in order ──► durable (what is left after a power cut)
//!                                        │           ▲ Sync, SyncDir, or a durable write
//!                                        └── crash: any subset of the changes, in order
//! ```
//!
//! Rules (weaker than ext4 or XFS on purpose; an engine may rely on nothing that is not said in [`Disk`](super::super::Disk)):
//! - A data block that survives makes the file long enough to hold it; the length alone may survive too (then zeros show).
//! - A durable write makes its own blocks and the length that they need durable, nothing else.
//! - Syncing a file does not sync its name.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

use bytes::Bytes;

use super::super::{BLOCK, DiskError, OpenMode};
use super::file::{FileChange, FileNode};
use super::image::Image;

/// A file or directory, for as long as the simulation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ino(u64);

/// Position in the order of all changes.
pub(super) type Seq = u64;

const ROOT: Ino = Ino(0);

#[derive(Debug, Clone)]
enum DirChange {
    Link { dir: Ino, name: String, child: Ino },
    Unlink { dir: Ino, name: String, child: Ino },
    Rename { from: (Ino, String), to: (Ino, String), child: Ino, replaced: Option<Ino> },
}

impl DirChange {
    /// The directory whose sync makes it durable.
    fn dir(&self) -> Ino {
        match self {
            Self::Link { dir, .. } | Self::Unlink { dir, .. } => *dir,
            Self::Rename { to, .. } => to.0,
        }
    }

    fn mentions(&self, ino: Ino) -> bool {
        match self {
            Self::Link { dir, child, .. } | Self::Unlink { dir, child, .. } => *dir == ino || *child == ino,
            Self::Rename { from, to, child, replaced } => {
                from.0 == ino || to.0 == ino || *child == ino || *replaced == Some(ino)
            }
        }
    }
}

type Entries = BTreeMap<String, Ino>;

#[derive(Debug, Clone, Default)]
struct DirNode {
    cache: Entries,
    durable: Entries,
}

#[derive(Debug, Clone)]
enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// What happens to the bytes of a write that the caller is told succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persist {
    /// On stable storage now.
    Durable,
    /// In the cache, to be synced later.
    Dirty,
    /// In the cache and believed clean: reads see it, a crash loses it, a later sync does nothing for it.
    CleanButLost,
}

/// A change that a power cut may lose: `path`, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsynced {
    /// The file or directory entry, as it is named now; its inode number where it has no name any more.
    pub path: String,
    /// What would survive.
    pub change: UnsyncedChange,
}

/// One thing that survives or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsyncedChange {
    /// A block of data, by number.
    Block(u64),
    /// The file's length in bytes.
    Length(u64),
    /// A new directory entry.
    Created,
    /// A removed directory entry.
    Removed,
    /// A rename to this path.
    Renamed,
    /// An operation in flight that is not a write, as a whole.
    InFlight,
}

/// The whole file system. Cloning copies one pointer per file.
#[derive(Debug, Clone)]
pub(super) struct Fs {
    nodes: BTreeMap<Ino, Arc<Node>>,
    dir_changes: Vec<(Seq, DirChange)>,
    next_ino: u64,
    next_seq: Seq,
    used_blocks: u64,
    capacity_blocks: u64,
}

impl Fs {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        let root = Arc::new(Node::Dir(DirNode::default()));
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            dir_changes: Vec::new(),
            next_ino: 1,
            next_seq: 0,
            used_blocks: 0,
            capacity_blocks: capacity_bytes / BLOCK as u64,
        }
    }

    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity_blocks = bytes / BLOCK as u64;
    }

    /// Free and total bytes.
    pub(super) fn space(&self) -> (u64, u64) {
        let free = self.capacity_blocks.saturating_sub(self.used_blocks);
        (free.saturating_mul(BLOCK as u64), self.capacity_blocks.saturating_mul(BLOCK as u64))
    }

    /// Changes made from now on have this number or a higher one.
    pub(super) fn next_seq(&self) -> Seq {
        self.next_seq
    }

    fn seq(&mut self) -> Seq {
        self.next_seq += 1;
        self.next_seq - 1
    }

    fn add_node(&mut self, node: Node) -> Ino {
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        self.nodes.insert(ino, Arc::new(node));
        ino
    }

    fn dir(&self, ino: Ino) -> Option<&DirNode> {
        match self.nodes.get(&ino).map(Arc::as_ref) {
            Some(Node::Dir(dir)) => Some(dir),
            Some(Node::File(_)) | None => None,
        }
    }

    fn dir_mut(&mut self, ino: Ino) -> Option<&mut DirNode> {
        match self.nodes.get_mut(&ino).map(Arc::make_mut) {
            Some(Node::Dir(dir)) => Some(dir),
            Some(Node::File(_)) | None => None,
        }
    }

    fn file(&self, ino: Ino) -> Option<&FileNode> {
        match self.nodes.get(&ino).map(Arc::as_ref) {
            Some(Node::File(file)) => Some(file),
            Some(Node::Dir(_)) | None => None,
        }
    }

    fn file_mut(&mut self, ino: Ino) -> Option<&mut FileNode> {
        match self.nodes.get_mut(&ino).map(Arc::make_mut) {
            Some(Node::File(file)) => Some(file),
            Some(Node::Dir(_)) | None => None,
        }
    }

    fn resolve(&self, path: &Path) -> Result<Ino, DiskError> {
        let mut at = ROOT;
        for name in names(path)? {
            at = *self.dir(at).and_then(|dir| dir.cache.get(name)).ok_or_else(|| not_found(path))?;
        }
        Ok(at)
    }

    /// The directory that a path's last name lies in.
    fn parent<'p>(&self, path: &'p Path) -> Result<(Ino, &'p str), DiskError> {
        let names = names(path)?;
        let Some((last, parents)) = names.split_last() else {
            return Err(failed(path, "is the root directory"));
        };
        let mut at = ROOT;
        for name in parents {
            at = *self.dir(at).and_then(|dir| dir.cache.get(*name)).ok_or_else(|| not_found(path))?;
        }
        if self.dir(at).is_none() {
            return Err(failed(path, "parent is not a directory"));
        }
        Ok((at, last))
    }

    pub(super) fn open(&mut self, path: &Path, mode: OpenMode) -> Result<(Ino, u64), DiskError> {
        let (dir, name) = self.parent(path)?;
        let existing = self.dir(dir).and_then(|d| d.cache.get(name)).copied();
        let ino = match (existing, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(failed(path, "exists")),
            (Some(ino), OpenMode::Read | OpenMode::Write | OpenMode::Create) => ino,
            (None, OpenMode::Read | OpenMode::Write) => return Err(not_found(path)),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                let child = self.add_node(Node::File(FileNode { linked: true, ..FileNode::default() }));
                self.link(dir, name, child);
                child
            }
        };
        let Some(file) = self.file_mut(ino) else { return Err(failed(path, "is a directory")) };
        file.opens += 1;
        Ok((ino, file.cache.len))
    }

    pub(super) fn close(&mut self, ino: Ino) {
        let Some(file) = self.file_mut(ino) else { return };
        file.opens = file.opens.saturating_sub(1);
        self.forget_if_unused(ino);
    }

    /// Closes every handle, as the end of a process does.
    fn close_all(&mut self) {
        let files: Vec<Ino> = self.nodes.keys().copied().collect();
        for ino in files {
            if self.file(ino).is_some_and(|file| file.opens > 0) {
                if let Some(file) = self.file_mut(ino) {
                    file.opens = 1;
                }
                self.close(ino);
            }
        }
    }

    fn link(&mut self, dir: Ino, name: &str, child: Ino) {
        if let Some(node) = self.dir_mut(dir) {
            node.cache.insert(name.to_owned(), child);
        }
        let seq = self.seq();
        self.dir_changes.push((seq, DirChange::Link { dir, name: name.to_owned(), child }));
    }

    fn unlink(&mut self, dir: Ino, name: &str, child: Ino) {
        if let Some(node) = self.dir_mut(dir) {
            node.cache.remove(name);
        }
        let seq = self.seq();
        self.dir_changes.push((seq, DirChange::Unlink { dir, name: name.to_owned(), child }));
        self.lose_name(child);
    }

    /// A file without a name gives its space back once nobody has it open.
    fn lose_name(&mut self, child: Ino) {
        if let Some(file) = self.file_mut(child) {
            file.linked = false;
        }
        self.forget_if_unused(child);
    }

    fn forget_if_unused(&mut self, ino: Ino) {
        let Some(file) = self.file(ino) else { return };
        if file.linked || file.opens > 0 {
            return;
        }
        let blocks = file.cache.blocks.len() as u64;
        if blocks > 0 {
            self.used_blocks = self.used_blocks.saturating_sub(blocks);
        }
        // What was durable stays until the removal of the name is: a crash may bring it back.
        if self.dir_changes.iter().any(|(_, change)| change.mentions(ino)) {
            if let Some(file) = self.file_mut(ino) {
                file.cache = Image::default();
            }
        } else {
            self.nodes.remove(&ino);
        }
    }

    pub(super) fn read(&self, ino: Ino, offset: u64, len: usize) -> Bytes {
        self.file(ino).map(|file| file.cache.read(offset, len)).unwrap_or_default()
    }

    /// Whether these blocks still fit.
    pub(super) fn has_room_for(&self, ino: Ino, blocks: &[(u64, Bytes)]) -> bool {
        let Some(file) = self.file(ino) else { return true };
        let new = blocks.iter().filter(|(block, _)| !file.cache.blocks.contains_key(block)).count() as u64;
        self.used_blocks + new <= self.capacity_blocks
    }

    pub(super) fn write(&mut self, ino: Ino, blocks: &[(u64, Bytes)], persist: Persist) {
        let first_seq = self.next_seq;
        let Some(file) = self.file_mut(ino) else { return };
        let before = file.cache.blocks.len();
        let grew = file.put_in_cache(blocks);
        let added = (file.cache.blocks.len() - before) as u64;
        let used = match persist {
            Persist::Durable => {
                file.put_durably(blocks);
                0
            }
            Persist::Dirty => file.make_dirty(first_seq, blocks, grew),
            Persist::CleanButLost => 0,
        };
        self.next_seq += used;
        self.used_blocks += added;
    }

    /// Takes no space before it is written, as on a file system that can't.
    pub(super) fn grow(&mut self, ino: Ino, len: u64) {
        let first_seq = self.next_seq;
        let Some(file) = self.file_mut(ino) else { return };
        if file.cache.len < len {
            file.cache.len = len;
            self.next_seq += file.make_dirty(first_seq, &[], Some(len));
        }
    }

    /// Makes changes older than `before` durable.
    pub(super) fn sync(&mut self, ino: Ino, before: Seq) {
        if self.file(ino).is_some_and(|file| !file.dirty.is_empty())
            && let Some(file) = self.file_mut(ino)
        {
            file.sync(before);
        }
    }

    /// See [`FileNode::sync_failed`].
    pub(super) fn sync_failed(&mut self, ino: Ino) {
        if let Some(file) = self.file_mut(ino) {
            file.sync_failed();
        }
    }

    pub(super) fn sync_dir(&mut self, path: &Path, before: Seq) -> Result<(), DiskError> {
        let dir = self.resolve(path)?;
        if self.dir(dir).is_none() {
            return Err(failed(path, "is not a directory"));
        }
        for change in self.take_changes(|seq, change| seq < before && change.dir() == dir) {
            self.settle(&change);
        }
        Ok(())
    }

    /// Makes one change of names durable, and forgets what nothing can bring back any more.
    fn settle(&mut self, change: &DirChange) {
        self.settle_names(change);
        match change {
            DirChange::Link { .. } => {}
            DirChange::Unlink { child, .. } => self.forget_settled(*child),
            DirChange::Rename { replaced, .. } => {
                if let Some(replaced) = replaced {
                    self.forget_settled(*replaced);
                }
            }
        }
    }

    fn settle_names(&mut self, change: &DirChange) {
        match change {
            DirChange::Link { dir, name, child } => self.settle_entry(*dir, name, *child),
            DirChange::Unlink { dir, name, child } => self.settle_removal(*dir, name, *child),
            DirChange::Rename { from, to, child, .. } => {
                self.settle_removal(from.0, &from.1, *child);
                self.settle_entry(to.0, &to.1, *child);
            }
        }
    }

    fn settle_entry(&mut self, dir: Ino, name: &str, child: Ino) {
        if let Some(node) = self.dir_mut(dir) {
            node.durable.insert(name.to_owned(), child);
        }
    }

    fn settle_removal(&mut self, dir: Ino, name: &str, child: Ino) {
        if let Some(node) = self.dir_mut(dir)
            && node.durable.get(name) == Some(&child)
        {
            node.durable.remove(name);
        }
    }

    /// A file whose last name is durably gone needs no image any more; a directory takes its pending changes along.
    fn forget_settled(&mut self, ino: Ino) {
        if self.dir(ino).is_some() {
            for change in self.take_changes(|_, change| change.dir() == ino) {
                self.settle(&change);
            }
            self.nodes.remove(&ino);
            return;
        }
        let unused = self.file(ino).is_some_and(|file| !file.linked && file.opens == 0);
        if unused && !self.dir_changes.iter().any(|(_, change)| change.mentions(ino)) {
            self.nodes.remove(&ino);
        }
    }

    fn take_changes(&mut self, wanted: impl Fn(Seq, &DirChange) -> bool) -> Vec<DirChange> {
        let mut taken = Vec::new();
        self.dir_changes.retain(|(seq, change)| {
            let take = wanted(*seq, change);
            if take {
                taken.push(change.clone());
            }
            !take
        });
        taken
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let child = *self.dir(from_dir).and_then(|dir| dir.cache.get(from_name)).ok_or_else(|| not_found(from))?;
        let replaced = self.dir(to_dir).and_then(|dir| dir.cache.get(to_name)).copied().filter(|old| *old != child);
        if replaced.is_some_and(|old| self.dir(old).is_some_and(|dir| !dir.cache.is_empty())) {
            return Err(failed(to, "is a directory that is not empty"));
        }
        if let Some(dir) = self.dir_mut(from_dir) {
            dir.cache.remove(from_name);
        }
        if let Some(dir) = self.dir_mut(to_dir) {
            dir.cache.insert(to_name.to_owned(), child);
        }
        let seq = self.seq();
        let change = DirChange::Rename {
            from: (from_dir, from_name.to_owned()),
            to: (to_dir, to_name.to_owned()),
            child,
            replaced,
        };
        self.dir_changes.push((seq, change));
        if let Some(replaced) = replaced {
            self.lose_name(replaced);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<(), DiskError> {
        let (dir, name) = match self.parent(path) {
            Ok(found) => found,
            Err(DiskError::NotFound { .. }) => return Ok(()),
            Err(other @ (DiskError::Full { .. } | DiskError::Failed { .. })) => return Err(other),
        };
        let Some(child) = self.dir(dir).and_then(|d| d.cache.get(name)).copied() else { return Ok(()) };
        if self.dir(child).is_some() {
            return Err(failed(path, "is a directory"));
        }
        self.unlink(dir, name, child);
        Ok(())
    }

    /// What was cut off and what is left, in bytes.
    pub(super) fn shrink(&mut self, path: &Path, by: u64) -> Result<(u64, u64), DiskError> {
        let ino = match self.resolve(path) {
            Err(DiskError::NotFound { .. }) => return Ok((0, 0)),
            other => other?,
        };
        let Some(file) = self.file_mut(ino) else { return Err(failed(path, "is a directory")) };
        let len = file.cache.len;
        if len <= by {
            return self.remove(path).map(|()| (len, 0));
        }
        let before = file.cache.blocks.len();
        file.shrink(len - by);
        let cut = (before - file.cache.blocks.len()) as u64;
        self.used_blocks = self.used_blocks.saturating_sub(cut);
        Ok((by, len - by))
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> Result<(), DiskError> {
        let mut at = ROOT;
        for name in names(path)? {
            let Some(dir) = self.dir(at) else { return Err(failed(path, "a parent is a file")) };
            at = match dir.cache.get(name) {
                Some(ino) => *ino,
                None => {
                    let child = self.add_node(Node::Dir(DirNode::default()));
                    self.link(at, name, child);
                    child
                }
            };
        }
        if self.dir(at).is_none() { Err(failed(path, "exists and is a file")) } else { Ok(()) }
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> Result<(), DiskError> {
        let (parent, name) = match self.parent(path) {
            Ok(found) => found,
            Err(DiskError::NotFound { .. }) => return Ok(()),
            Err(other @ (DiskError::Full { .. } | DiskError::Failed { .. })) => return Err(other),
        };
        let Some(ino) = self.dir(parent).and_then(|d| d.cache.get(name)).copied() else { return Ok(()) };
        if self.dir(ino).is_none() {
            return Err(failed(path, "is not a directory"));
        }
        self.empty_dir(ino);
        self.unlink(parent, name, ino);
        Ok(())
    }

    fn empty_dir(&mut self, ino: Ino) {
        let entries: Vec<(String, Ino)> =
            self.dir(ino).map(|dir| dir.cache.iter().map(|(n, i)| (n.clone(), *i)).collect()).unwrap_or_default();
        for (name, child) in entries {
            self.empty_dir(child);
            self.unlink(ino, &name, child);
        }
    }

    pub(super) fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        match self.resolve(path) {
            Ok(ino) => match self.dir(ino) {
                Some(dir) => Ok(dir.cache.keys().cloned().collect()),
                None => Err(failed(path, "is not a directory")),
            },
            Err(DiskError::NotFound { .. }) => Ok(Vec::new()),
            Err(other @ (DiskError::Full { .. } | DiskError::Failed { .. })) => Err(other),
        }
    }

    pub(super) fn flip(&mut self, path: &Path, offset: u64, bit: u8) -> Result<bool, DiskError> {
        let ino = self.resolve(path)?;
        let Some(file) = self.file_mut(ino) else { return Err(failed(path, "is a directory")) };
        file.durable.flip(offset, bit);
        Ok(file.cache.flip(offset, bit))
    }

    /// What a power cut may lose, oldest first.
    pub(super) fn unsynced(&self) -> Vec<(Seq, Unsynced)> {
        let paths = self.paths();
        let path_of = |ino: Ino| paths.get(&ino).cloned().unwrap_or_else(|| format!("#{}", ino.0));
        let mut out = Vec::new();
        for (ino, node) in &self.nodes {
            let Node::File(file) = node.as_ref() else { continue };
            for (seq, change) in &file.dirty {
                let change = match change {
                    FileChange::Data { block, .. } => UnsyncedChange::Block(*block),
                    FileChange::Grow(len) => UnsyncedChange::Length(*len),
                };
                out.push((*seq, Unsynced { path: path_of(*ino), change }));
            }
        }
        for (seq, change) in &self.dir_changes {
            let (dir, name, change) = match change {
                DirChange::Link { dir, name, .. } => (*dir, name, UnsyncedChange::Created),
                DirChange::Unlink { dir, name, .. } => (*dir, name, UnsyncedChange::Removed),
                DirChange::Rename { to, .. } => (to.0, &to.1, UnsyncedChange::Renamed),
            };
            out.push((*seq, Unsynced { path: join(&path_of(dir), name), change }));
        }
        out.sort_by_key(|(seq, _)| *seq);
        out
    }

    /// Everything that has a name.
    pub(super) fn names(&self) -> Vec<String> {
        self.paths().into_values().collect()
    }

    fn paths(&self) -> BTreeMap<Ino, String> {
        let mut found = BTreeMap::from([(ROOT, String::new())]);
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            let Some(dir) = self.dir(ino) else { continue };
            let here = found.get(&ino).cloned().unwrap_or_default();
            for (name, child) in &dir.cache {
                found.insert(*child, join(&here, name));
                todo.push(*child);
            }
        }
        found
    }

    /// The file system after a power cut in which exactly the changes that `survives` names reached the disk.
    pub(super) fn after_power_cut(&self, survives: impl Fn(Seq) -> bool) -> Self {
        let mut fs = self.clone();
        let changes = std::mem::take(&mut fs.dir_changes);
        for (seq, change) in changes {
            if survives(seq) {
                fs.settle_names(&change);
            }
        }
        for node in fs.nodes.values_mut() {
            power_cut_node(Arc::make_mut(node), &survives);
        }
        fs.sweep();
        fs
    }

    /// Keeps what the root reaches, and counts its blocks.
    fn sweep(&mut self) {
        let reached = self.paths();
        self.nodes.retain(|ino, _| reached.contains_key(ino));
        self.used_blocks = 0;
        for node in self.nodes.values_mut() {
            if let Node::File(file) = Arc::make_mut(node) {
                file.linked = true;
                self.used_blocks += file.cache.blocks.len() as u64;
            }
        }
    }

    /// The file system after its process was killed: what was completed stays in the cache, nothing is open.
    pub(super) fn after_kill(&self) -> Self {
        let mut fs = self.clone();
        fs.close_all();
        fs
    }
}

fn power_cut_node(node: &mut Node, survives: &impl Fn(Seq) -> bool) {
    match node {
        Node::File(file) => file.power_cut(survives),
        Node::Dir(dir) => dir.cache = dir.durable.clone(),
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

fn names(path: &Path) -> Result<Vec<&str>, DiskError> {
    let mut out = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => out.push(name.to_str().ok_or_else(|| failed(path, "is not UTF-8"))?),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(failed(path, "leaves the root directory"));
            }
        }
    }
    Ok(out)
}

fn not_found(path: &Path) -> DiskError {
    DiskError::NotFound { what: path.display().to_string() }
}

fn failed(path: &Path, message: &str) -> DiskError {
    DiskError::Failed { what: path.display().to_string(), message: message.to_owned() }
}
