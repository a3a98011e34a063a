//! The simulated disk: seeded, single-threaded, in memory, with power cuts and faults. Must not know the engine.
//!
//! An operation takes effect at the moment that it completes; until then a crash may find any part of it done:
//!
//! ```text
//! submit ──► in flight ──(a seeded number of steps)──► effect + completion
//!               │                                          │
//!               └ kill, crash: any subset of its blocks    └ crash: any subset of what no sync or durable write settled
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::rng::Rng;
use super::{Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token, check_aligned};

mod fault;
mod file;
mod fs;
mod image;

pub use fault::{Fault, FaultAction, FaultOn};
pub use fs::{Unsynced, UnsyncedChange};

use fault::Faults;
use fs::{Fs, Ino, Persist, Seq};
use image::cut_into_blocks;

/// How a simulated disk behaves when nothing goes wrong.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Decides delays, order, torn subsets and seeded crashes.
    pub seed: u64,
    /// Size of the file system in bytes.
    pub capacity: u64,
    /// An operation completes between `min_delay` and `max_delay` steps after it was submitted; each `poll` is a step.
    /// With both 0, everything completes at the next `poll`, in random order.
    pub min_delay: u64,
    /// See `min_delay`.
    pub max_delay: u64,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self { seed: 0, capacity: 1 << 40, min_delay: 0, max_delay: 3 }
    }
}

/// Which unsynced units survive a crash or kill.
#[derive(Debug, Clone, Copy)]
pub enum Survive {
    /// Everything.
    All,
    /// Nothing.
    None,
    /// Unit `i` of the list survives if bit `i` is set; units from the 64th on are lost.
    Mask(u64),
    /// Each on its own, with a seeded probability (0, 10, 50, 90 or 100 %).
    Seeded(u64),
}

impl Survive {
    fn choose(self, count: usize) -> Vec<bool> {
        match self {
            Self::All => vec![true; count],
            Self::None => vec![false; count],
            Self::Mask(mask) => (0..count).map(|i| i < 64 && mask >> i & 1 == 1).collect(),
            Self::Seeded(seed) => {
                let mut rng = Rng::new(seed);
                let percent = [0, 10, 50, 90, 100][usize::try_from(rng.up_to(4)).unwrap_or(0)];
                (0..count).map(|_| rng.chance(percent)).collect()
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Handle {
    ino: Ino,
    path: PathBuf,
    writable: bool,
}

#[derive(Debug, Clone)]
struct InFlight {
    token: Token,
    op: Op,
    fault: Option<FaultAction>,
    /// For syncs: they cover what had completed when they were submitted.
    before: Seq,
}

/// Due step, then a random number, then the order of submission.
type Due = (u64, u64, u64);

/// The simulated disk. A clone is an independent copy of everything, operations in flight included, and is cheap.
#[derive(Debug, Clone)]
pub struct SimDisk {
    config: SimConfig,
    rng: Rng,
    fs: Fs,
    handles: BTreeMap<u32, Handle>,
    next_handle: u32,
    step: u64,
    submitted: u64,
    in_flight: BTreeMap<Due, InFlight>,
    faults: Faults,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        let fs = Fs::new(config.capacity);
        Self::over(config, fs)
    }

    fn over(config: SimConfig, fs: Fs) -> Self {
        Self {
            rng: Rng::new(config.seed),
            config,
            fs,
            handles: BTreeMap::new(),
            next_handle: 1,
            step: 0,
            submitted: 0,
            in_flight: BTreeMap::new(),
            faults: Faults::default(),
        }
    }

    /// Adds a fault; see [`Fault`].
    pub fn inject(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// Makes the file system larger or smaller, also than what is in it.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.config.capacity = bytes;
        self.fs.set_capacity(bytes);
    }

    /// Free bytes of the file system.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.fs.space().0
    }

    /// Inverts a bit on the medium and in the cache.
    ///
    /// # Errors
    /// No such file. `Ok(false)` if the file is shorter than that.
    pub fn flip_bit(&mut self, path: &Path, offset: u64, bit: u8) -> Result<bool, DiskError> {
        self.fs.flip(path, offset, bit)
    }

    /// Every file and directory, in the order in which they were made.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.fs.names().into_iter().map(PathBuf::from).collect()
    }

    /// The whole content of a file as reads see it, for tests that look at bytes.
    ///
    /// # Errors
    /// No such file.
    pub fn contents(&mut self, path: &Path) -> Result<Bytes, DiskError> {
        let (ino, len) = self.fs.open(path, OpenMode::Read)?;
        let bytes = self.fs.read(ino, 0, usize::try_from(len).unwrap_or(usize::MAX));
        self.fs.close(ino);
        Ok(bytes)
    }

    /// Virtual steps so far.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What a power cut at this moment may lose, in the order of [`Survive::Mask`]: first what has completed and was not
    /// synced, then the parts of what is in flight.
    #[must_use]
    pub fn unsynced(&self) -> Vec<Unsynced> {
        let mut out: Vec<Unsynced> = self.fs.unsynced().into_iter().map(|(_, unit)| unit).collect();
        out.extend(self.in_flight_units());
        out
    }

    /// What a kill of the process at this moment may leave undone, in the order of [`Survive::Mask`].
    #[must_use]
    pub fn in_flight_units(&self) -> Vec<Unsynced> {
        self.parts_in_flight().into_iter().map(|(_, unit)| unit).collect()
    }

    /// The disk after a power cut: nothing open, nothing in flight, no faults, and of what no sync or durable write had
    /// settled only what `survive` says. This disk is unchanged.
    #[must_use]
    pub fn crash(&self, survive: Survive) -> Self {
        let settled_later = self.fs.unsynced();
        let parts = self.parts_in_flight();
        let chosen = survive.choose(settled_later.len() + parts.len());
        let (chosen_dirty, chosen_parts) = chosen.split_at(settled_later.len());
        let fs = self.with_parts(&parts, chosen_parts);
        let boundary = self.fs.next_seq();
        let survivors: BTreeMap<Seq, bool> =
            settled_later.iter().zip(chosen_dirty).map(|((seq, _), keep)| (*seq, *keep)).collect();
        let fs = fs.after_power_cut(|seq| seq >= boundary || survivors.get(&seq).copied().unwrap_or(false));
        Self::over(self.reseeded(), fs)
    }

    /// The disk after the process was killed and the machine went on: what has completed stays (durable or not), of what
    /// was in flight what `survive` says. This disk is unchanged.
    #[must_use]
    pub fn kill(&self, survive: Survive) -> Self {
        let parts = self.parts_in_flight();
        let chosen = survive.choose(parts.len());
        let fs = self.with_parts(&parts, &chosen);
        Self::over(self.reseeded(), fs.after_kill())
    }

    fn reseeded(&self) -> SimConfig {
        let mut rng = self.rng.clone();
        SimConfig { seed: rng.next(), ..self.config.clone() }
    }

    /// Operations in flight, in order of submission, cut into what may happen independently.
    fn parts_in_flight(&self) -> Vec<(Part<'_>, Unsynced)> {
        let mut ops: Vec<(&Due, &InFlight)> = self.in_flight.iter().collect();
        ops.sort_by_key(|((_, _, order), _)| *order);
        ops.into_iter().flat_map(|(_, flight)| self.parts(&flight.op)).collect()
    }

    fn parts<'a>(&'a self, op: &'a Op) -> Vec<(Part<'a>, Unsynced)> {
        match op {
            Op::Write { file, offset, data, .. } => self.write_parts(*file, *offset, data),
            Op::Open { path, mode: OpenMode::Create | OpenMode::CreateNew }
            | Op::Remove { path }
            | Op::CreateDir { path }
            | Op::RemoveDir { path }
            | Op::Rename { to: path, .. } => vec![(Part::Whole(op), in_flight_unit(path))],
            Op::Shrink { path, .. } => vec![(Part::Whole(op), in_flight_unit(path))],
            Op::Grow { file, len } => {
                let Some(handle) = self.handles.get(&file.0) else { return Vec::new() };
                let change = UnsyncedChange::Length(*len);
                vec![(Part::Whole(op), Unsynced { path: handle.path.display().to_string(), change })]
            }
            Op::Open { mode: OpenMode::Read | OpenMode::Write, .. }
            | Op::Close { .. }
            | Op::Read { .. }
            | Op::Sync { .. }
            | Op::SyncDir { .. }
            | Op::List { .. }
            | Op::FreeSpace => Vec::new(),
        }
    }

    fn write_parts(&self, file: FileId, offset: u64, data: &Bytes) -> Vec<(Part<'_>, Unsynced)> {
        let Some(handle) = self.handles.get(&file.0) else { return Vec::new() };
        if !handle.writable || check_aligned(offset, data.len()).is_err() {
            return Vec::new();
        }
        cut_into_blocks(offset, data)
            .into_iter()
            .map(|(block, bytes)| {
                let unit = Unsynced { path: handle.path.display().to_string(), change: UnsyncedChange::Block(block) };
                (Part::Block(handle.ino, block, bytes), unit)
            })
            .collect()
    }

    /// A copy of the file system in which the chosen parts of what is in flight have happened.
    fn with_parts(&self, parts: &[(Part<'_>, Unsynced)], chosen: &[bool]) -> Fs {
        let mut fs = self.fs.clone();
        for ((part, _), _) in parts.iter().zip(chosen).filter(|(_, keep)| **keep) {
            match part {
                Part::Block(ino, block, bytes) => {
                    let block = [(*block, bytes.clone())];
                    if fs.has_room_for(*ino, &block) {
                        fs.write(*ino, &block, Persist::Dirty);
                    }
                }
                Part::Whole(op) => self.whole_part(&mut fs, op),
            }
        }
        fs
    }

    /// An operation that would have failed leaves nothing, so its error is of no interest.
    fn whole_part(&self, fs: &mut Fs, op: &Op) {
        let _outcome = match op {
            Op::Open { path, mode } => fs.open(path, *mode).map(|_| ()),
            Op::Remove { path } => fs.remove(path),
            Op::Shrink { path, by } => fs.shrink(path, *by).map(|_| ()),
            Op::CreateDir { path } => fs.create_dir(path),
            Op::RemoveDir { path } => fs.remove_dir(path),
            Op::Rename { from, to } => fs.rename(from, to),
            Op::Grow { file, len } => {
                if let Some(handle) = self.handles.get(&file.0) {
                    fs.grow(handle.ino, *len);
                }
                Ok(())
            }
            Op::Close { .. }
            | Op::Write { .. }
            | Op::Read { .. }
            | Op::Sync { .. }
            | Op::SyncDir { .. }
            | Op::List { .. }
            | Op::FreeSpace => Ok(()),
        };
    }

    fn due(&mut self, op: &Op, fault: Option<FaultAction>) -> Due {
        let spread = self.config.max_delay.saturating_sub(self.config.min_delay);
        let mut delay = self.config.min_delay + self.rng.up_to(spread);
        if let Some(FaultAction::Slow { steps }) = fault {
            delay += steps;
        }
        let mut at = self.step + 1 + delay;
        if let Op::Close { file } = op {
            // Operations in flight on the file finish first.
            let last = self.in_flight.iter().filter(|(_, f)| uses(&f.op, *file)).map(|(due, _)| due.0).max();
            at = at.max(last.map_or(0, |last| last + 1));
        }
        (at, self.rng.next(), self.submitted)
    }

    fn check_faults(&mut self, op: &Op) -> Option<FaultAction> {
        let of_handle = |file: &FileId| self.handles.get(&file.0).map(|h| h.path.clone());
        let (on, paths): (FaultOn, Vec<PathBuf>) = match op {
            Op::Open { path, .. } => (FaultOn::Open, vec![path.clone()]),
            Op::Write { file, .. } => (FaultOn::Write, of_handle(file).into_iter().collect()),
            Op::Read { file, .. } => (FaultOn::Read, of_handle(file).into_iter().collect()),
            Op::Grow { file, .. } => (FaultOn::Grow, of_handle(file).into_iter().collect()),
            Op::Sync { files } => (FaultOn::Sync, files.iter().filter_map(of_handle).collect()),
            Op::SyncDir { path } => (FaultOn::SyncDir, vec![path.clone()]),
            Op::Rename { from, to } => (FaultOn::Names, vec![from.clone(), to.clone()]),
            Op::Remove { path }
            | Op::Shrink { path, .. }
            | Op::CreateDir { path }
            | Op::RemoveDir { path }
            | Op::List { path } => (FaultOn::Names, vec![path.clone()]),
            Op::Close { .. } | Op::FreeSpace => return None,
        };
        self.faults.check(on, &paths)
    }

    fn execute(&mut self, flight: &InFlight) -> Result<Done, DiskError> {
        let fault = flight.fault.filter(|fault| !matches!(fault, FaultAction::Slow { .. }));
        match &flight.op {
            Op::Write { file, offset, data, durable } => {
                let handle = self.handle(*file, "write")?;
                if !handle.writable {
                    return Err(failed(&handle.path, "is open for reading"));
                }
                self.write(handle.ino, &handle.path, *offset, data, *durable, fault).map(|()| Done::Ok)
            }
            Op::Read { file, offset, len } => self.read(*file, *offset, *len, fault).map(Done::Read),
            Op::Sync { files } => self.sync(files, flight.before, fault).map(|()| Done::Ok),
            Op::Open { .. }
            | Op::Close { .. }
            | Op::SyncDir { .. }
            | Op::Rename { .. }
            | Op::Remove { .. }
            | Op::Shrink { .. }
            | Op::CreateDir { .. }
            | Op::RemoveDir { .. }
            | Op::List { .. }
            | Op::Grow { .. }
            | Op::FreeSpace => match fault {
                None => self.execute_names(flight),
                Some(FaultAction::Full) => Err(DiskError::Full { what: "injected".into() }),
                Some(_) => Err(injected(Path::new(""))),
            },
        }
    }

    fn execute_names(&mut self, flight: &InFlight) -> Result<Done, DiskError> {
        match &flight.op {
            Op::Open { path, mode } => {
                let (ino, len) = self.fs.open(path, *mode)?;
                let id = self.next_handle;
                self.next_handle += 1;
                self.handles.insert(id, Handle { ino, path: path.clone(), writable: *mode != OpenMode::Read });
                Ok(Done::Opened(FileId(id), len))
            }
            Op::Close { file } => {
                let handle = self.handle(*file, "close")?;
                self.handles.remove(&file.0);
                self.fs.close(handle.ino);
                Ok(Done::Ok)
            }
            Op::Grow { file, len } => {
                let handle = self.handle(*file, "grow")?;
                if !handle.writable {
                    return Err(failed(&handle.path, "is open for reading"));
                }
                self.fs.grow(handle.ino, *len);
                Ok(Done::Ok)
            }
            Op::SyncDir { path } => self.fs.sync_dir(path, flight.before).map(|()| Done::Ok),
            Op::Rename { from, to } => self.fs.rename(from, to).map(|()| Done::Ok),
            Op::Remove { path } => self.fs.remove(path).map(|()| Done::Ok),
            Op::Shrink { path, by } => self.fs.shrink(path, *by).map(|(freed, left)| Done::Shrunk { freed, left }),
            Op::CreateDir { path } => self.fs.create_dir(path).map(|()| Done::Ok),
            Op::RemoveDir { path } => self.fs.remove_dir(path).map(|()| Done::Ok),
            Op::List { path } => self.fs.list(path).map(Done::Listed),
            Op::FreeSpace => {
                let (free, total) = self.fs.space();
                Ok(Done::Space { free, total })
            }
            Op::Write { .. } | Op::Read { .. } | Op::Sync { .. } => {
                Err(failed(Path::new(""), "is not an operation on names"))
            }
        }
    }

    fn handle(&self, file: FileId, what: &str) -> Result<Handle, DiskError> {
        self.handles
            .get(&file.0)
            .cloned()
            .ok_or_else(|| DiskError::Failed { what: format!("{what} file {}", file.0), message: "is not open".into() })
    }

    fn write(
        &mut self,
        ino: Ino,
        path: &Path,
        offset: u64,
        data: &Bytes,
        durable: bool,
        fault: Option<FaultAction>,
    ) -> Result<(), DiskError> {
        check_aligned(offset, data.len()).and(super::check_memory(data)).map_err(|why| failed(path, why))?;
        let mut blocks = cut_into_blocks(offset, data);
        if !self.fs.has_room_for(ino, &blocks) {
            return Err(DiskError::Full { what: path.display().to_string() });
        }
        let persist = if durable { Persist::Durable } else { Persist::Dirty };
        match fault {
            None | Some(FaultAction::Slow { .. }) => self.fs.write(ino, &blocks, persist),
            Some(FaultAction::Full) => return Err(DiskError::Full { what: path.display().to_string() }),
            Some(FaultAction::Fail | FaultAction::ShortRead { .. } | FaultAction::FlipInRead { .. }) => {
                return Err(injected(path));
            }
            Some(FaultAction::FailAfterCache) => {
                self.fs.write(ino, &blocks, Persist::CleanButLost);
                return Err(injected(path));
            }
            Some(FaultAction::TornThenFail) => {
                self.tear(&mut blocks);
                self.fs.write(ino, &blocks, persist);
                return Err(injected(path));
            }
            Some(FaultAction::TornSilently) => {
                self.tear(&mut blocks);
                self.fs.write(ino, &blocks, persist);
            }
            Some(FaultAction::LoseAtPowerCut) => self.fs.write(ino, &blocks, Persist::CleanButLost),
            Some(FaultAction::LoseNow) => {}
            Some(FaultAction::Misdirect { blocks: distance }) => {
                for (block, _) in &mut blocks {
                    *block = block.saturating_add_signed(distance);
                }
                self.fs.write(ino, &blocks, persist);
            }
        }
        Ok(())
    }

    /// Leaves a proper subset: at least one block is missing, and of several at least one is there.
    fn tear(&mut self, blocks: &mut Vec<(u64, Bytes)>) {
        let Some(last) = (blocks.len() as u64).checked_sub(1) else { return };
        let lost = self.rng.up_to(last);
        let kept = if last == 0 { lost } else { (lost + 1 + self.rng.up_to(last - 1)) % (last + 1) };
        let mut index = 0;
        blocks.retain(|_| {
            let keep = index != lost && (index == kept || self.rng.chance(50));
            index += 1;
            keep
        });
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize, fault: Option<FaultAction>) -> Result<Bytes, DiskError> {
        let handle = self.handle(file, "read")?;
        check_aligned(offset, len).map_err(|why| failed(&handle.path, why))?;
        let bytes = self.fs.read(handle.ino, offset, len);
        match fault {
            None | Some(FaultAction::Slow { .. }) => Ok(bytes),
            Some(FaultAction::ShortRead { bytes: most }) => Ok(bytes.slice(..bytes.len().min(most))),
            Some(FaultAction::FlipInRead { bit }) => {
                let mut changed = BytesMut::from(bytes.as_ref());
                if let Some(byte) = changed.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                Ok(changed.freeze())
            }
            Some(
                FaultAction::Fail
                | FaultAction::Full
                | FaultAction::FailAfterCache
                | FaultAction::TornThenFail
                | FaultAction::TornSilently
                | FaultAction::LoseAtPowerCut
                | FaultAction::LoseNow
                | FaultAction::Misdirect { .. },
            ) => Err(injected(&handle.path)),
        }
    }

    fn sync(&mut self, files: &[FileId], before: Seq, fault: Option<FaultAction>) -> Result<(), DiskError> {
        let handles: Vec<Handle> = files.iter().map(|file| self.handle(*file, "sync")).collect::<Result<_, _>>()?;
        for handle in &handles {
            match fault {
                None => self.fs.sync(handle.ino, before),
                // Says that all is well, and lies.
                Some(FaultAction::LoseAtPowerCut | FaultAction::LoseNow) => self.fs.sync_failed(handle.ino),
                Some(_) => {
                    self.fs.sync_failed(handle.ino);
                    return Err(injected(&handle.path));
                }
            }
        }
        Ok(())
    }

    fn complete_due(&mut self, out: &mut Vec<Completion>) {
        let later = self.in_flight.split_off(&(self.step + 1, 0, 0));
        let due = std::mem::replace(&mut self.in_flight, later);
        let mut ready: Vec<(Due, InFlight)> = due.into_iter().collect();
        // Random among all that is due; but a close stays behind what uses its file.
        ready.sort_by_key(|((_, random, order), flight)| (matches!(flight.op, Op::Close { .. }), *random, *order));
        for (_, flight) in ready {
            let result = self.execute(&flight);
            out.push(Completion { token: flight.token, result });
        }
    }
}

/// What may happen on its own of an operation in flight.
enum Part<'a> {
    Block(Ino, u64, Bytes),
    Whole(&'a Op),
}

fn in_flight_unit(path: &Path) -> Unsynced {
    Unsynced { path: path.display().to_string(), change: UnsyncedChange::InFlight }
}

fn uses(op: &Op, id: FileId) -> bool {
    match op {
        Op::Write { file, .. } | Op::Read { file, .. } | Op::Grow { file, .. } | Op::Close { file } => *file == id,
        Op::Sync { files } => files.contains(&id),
        Op::Open { .. }
        | Op::SyncDir { .. }
        | Op::Rename { .. }
        | Op::Remove { .. }
        | Op::Shrink { .. }
        | Op::CreateDir { .. }
        | Op::RemoveDir { .. }
        | Op::List { .. }
        | Op::FreeSpace => false,
    }
}

fn failed(path: &Path, message: &str) -> DiskError {
    DiskError::Failed { what: path.display().to_string(), message: message.to_owned() }
}

fn injected(path: &Path) -> DiskError {
    failed(path, "injected input/output error")
}

impl Disk for SimDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let fault = self.check_faults(&op);
        let due = self.due(&op, fault);
        self.submitted += 1;
        let before = self.fs.next_seq();
        self.in_flight.insert(due, InFlight { token, op, fault, before });
    }

    fn poll(&mut self, out: &mut Vec<Completion>) {
        self.step += 1;
        self.complete_due(out);
    }

    fn wait(&mut self, out: &mut Vec<Completion>) {
        let Some((first, _)) = self.in_flight.first_key_value() else { return };
        self.step = self.step.max(first.0);
        self.complete_due(out);
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn name(&self) -> &'static str {
        "sim"
    }
}

#[cfg(test)]
mod tests;
