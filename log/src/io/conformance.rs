//! The contract of [`Disk`] as tests. Every implementation runs all of [`suite`]; must not know which one it has.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;

use super::{AlignedBuf, BLOCK, Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token, call};

/// A disk, and the small conveniences that a test wants.
pub(super) struct Bench<D: Disk> {
    pub(super) disk: D,
    next: u64,
}

type Case<D> = (&'static str, fn(&mut Bench<D>));

/// Runs the whole suite, each case on a disk of its own in an empty directory.
pub(super) fn suite<D: Disk>(mut fresh: impl FnMut() -> D) {
    let cases: [Case<D>; 18] = [
        ("modes of open", open_modes),
        ("missing things", missing_things),
        ("write, read, close, open, read", write_and_reopen),
        ("read only handles refuse writes", read_only),
        ("reads past the end", reads_past_the_end),
        ("holes read as zeros", holes),
        ("lengths", lengths),
        ("alignment is required", alignment),
        ("directories", directories),
        ("rename replaces", rename_replaces),
        ("a removed file stays readable while open", removed_while_open),
        ("a file is removed a piece at a time", shrunk_until_gone),
        ("paths stay inside", paths_stay_inside),
        ("many in flight", many_in_flight),
        ("close waits for what is in flight", close_waits),
        ("sync of none, one and many files", sync_many),
        ("empty writes and reads", empty),
        ("waiting for nothing returns", wait_for_nothing),
    ];
    for (name, case) in cases {
        let mut bench = Bench::new(fresh());
        case(&mut bench);
        assert_eq!(bench.disk.in_flight(), 0, "{name}: something is still in flight");
    }
}

impl<D: Disk> Bench<D> {
    pub(super) fn new(disk: D) -> Self {
        Self { disk, next: 0 }
    }

    pub(super) fn token(&mut self) -> Token {
        self.next += 1;
        Token(self.next)
    }

    pub(super) fn run(&mut self, op: Op) -> Result<Done, DiskError> {
        let token = self.token();
        let mut others = Vec::new();
        let result = call(&mut self.disk, token, op, &mut others);
        assert!(others.is_empty(), "completions of operations that nobody submitted: {others:?}");
        result
    }

    pub(super) fn ok(&mut self, op: Op) {
        let what = format!("{op:?}");
        let done = self.run(op).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(matches!(done, Done::Ok), "{what} gave {done:?}");
    }

    pub(super) fn open(&mut self, path: &str, mode: OpenMode) -> Result<(FileId, u64), DiskError> {
        match self.run(Op::Open { path: path.into(), mode })? {
            Done::Opened(file, len) => Ok((file, len)),
            other => panic!("open gave {other:?}"),
        }
    }

    pub(super) fn create(&mut self, path: &str) -> FileId {
        self.open(path, OpenMode::Create).unwrap().0
    }

    pub(super) fn read(&mut self, file: FileId, offset: u64, len: usize) -> Bytes {
        match self.run(Op::Read { file, offset, len }).unwrap() {
            Done::Read(bytes) => bytes,
            other => panic!("read gave {other:?}"),
        }
    }

    pub(super) fn write(&mut self, file: FileId, block: u64, data: Bytes, durable: bool) -> Result<Done, DiskError> {
        self.run(Op::Write { file, offset: block * BLOCK as u64, data, durable })
    }

    fn list(&mut self, path: &str) -> Vec<String> {
        match self.run(Op::List { path: path.into() }).unwrap() {
            Done::Listed(names) => names,
            other => panic!("list gave {other:?}"),
        }
    }

    pub(super) fn drain(&mut self) -> Vec<Completion> {
        let mut out = Vec::new();
        while self.disk.in_flight() > 0 {
            self.disk.wait(&mut out);
        }
        out
    }
}

/// Whole blocks, each filled with its own byte.
pub(super) fn blocks(fill: &[u8]) -> Bytes {
    let mut buf = AlignedBuf::zeroed(fill.len() * BLOCK);
    for (block, byte) in buf.chunks_mut(BLOCK).zip(fill) {
        block.fill(*byte);
    }
    buf.freeze(fill.len() * BLOCK)
}

fn open_modes<D: Disk>(b: &mut Bench<D>) {
    assert!(matches!(b.open("f", OpenMode::Read), Err(DiskError::NotFound { .. })));
    assert!(matches!(b.open("f", OpenMode::Write), Err(DiskError::NotFound { .. })));
    let (first, len) = b.open("f", OpenMode::CreateNew).unwrap();
    assert_eq!(len, 0);
    assert!(matches!(b.open("f", OpenMode::CreateNew), Err(DiskError::Failed { .. })));
    b.write(first, 0, blocks(&[1, 2]), true).unwrap();
    let (second, len) = b.open("f", OpenMode::Create).unwrap();
    assert_eq!(len, 2 * BLOCK as u64, "an existing file is not truncated");
    let (third, len) = b.open("f", OpenMode::Write).unwrap();
    assert_eq!(len, 2 * BLOCK as u64);
    assert_eq!(BTreeSet::from([first, second, third]).len(), 3, "every open file has its own id");
    assert!(b.open("no/such/dir/f", OpenMode::Create).is_err());
    b.ok(Op::CreateDir { path: "d".into() });
    assert!(matches!(b.open("d", OpenMode::Write), Err(DiskError::Failed { .. })), "a directory is no file");
}

fn missing_things<D: Disk>(b: &mut Bench<D>) {
    b.ok(Op::Remove { path: "nothing".into() });
    b.ok(Op::Remove { path: "no/dir/nothing".into() });
    b.ok(Op::RemoveDir { path: "nothing".into() });
    assert!(b.list("nothing").is_empty());
    let gone = b.run(Op::Rename { from: "nothing".into(), to: "something".into() });
    assert!(matches!(gone, Err(DiskError::NotFound { .. })), "{gone:?}");
    assert!(b.run(Op::SyncDir { path: "nothing".into() }).is_err());
    let stranger = FileId(4_000_000);
    assert!(b.run(Op::Read { file: stranger, offset: 0, len: BLOCK }).is_err());
    assert!(b.run(Op::Write { file: stranger, offset: 0, data: blocks(&[1]), durable: true }).is_err());
    assert!(b.run(Op::Sync { files: vec![stranger] }).is_err());
    assert!(b.run(Op::Grow { file: stranger, len: 1 }).is_err());
    assert!(b.run(Op::Close { file: stranger }).is_err());
}

fn write_and_reopen<D: Disk>(b: &mut Bench<D>) {
    for durable in [true, false] {
        let name = format!("f-{durable}");
        let file = b.create(&name);
        b.write(file, 0, blocks(&[1, 2, 3]), durable).unwrap();
        b.write(file, 1, blocks(&[9]), durable).unwrap();
        assert_eq!(b.read(file, 0, 3 * BLOCK), blocks(&[1, 9, 3]));
        assert_eq!(b.read(file, 2 * BLOCK as u64, BLOCK), blocks(&[3]));
        b.ok(Op::Sync { files: vec![file] });
        b.ok(Op::Close { file });
        assert!(b.run(Op::Read { file, offset: 0, len: BLOCK }).is_err(), "closed");
        let (again, len) = b.open(&name, OpenMode::Read).unwrap();
        assert_eq!(len, 3 * BLOCK as u64);
        assert_eq!(b.read(again, 0, 3 * BLOCK), blocks(&[1, 9, 3]));
    }
}

fn read_only<D: Disk>(b: &mut Bench<D>) {
    let file = b.create("f");
    b.write(file, 0, blocks(&[1]), true).unwrap();
    let (reader, _) = b.open("f", OpenMode::Read).unwrap();
    assert!(b.write(reader, 0, blocks(&[2]), true).is_err());
    assert!(b.run(Op::Grow { file: reader, len: 1 }).is_err());
    assert_eq!(b.read(reader, 0, BLOCK), blocks(&[1]));
}

fn reads_past_the_end<D: Disk>(b: &mut Bench<D>) {
    let file = b.create("f");
    assert!(b.read(file, 0, BLOCK).is_empty());
    b.write(file, 0, blocks(&[1, 2]), false).unwrap();
    assert_eq!(b.read(file, 0, 16 * BLOCK), blocks(&[1, 2]));
    assert_eq!(b.read(file, BLOCK as u64, 16 * BLOCK), blocks(&[2]));
    assert!(b.read(file, 2 * BLOCK as u64, BLOCK).is_empty());
    assert!(b.read(file, 1 << 40, BLOCK).is_empty());
    b.ok(Op::Grow { file, len: 2 * BLOCK as u64 + 100 });
    let all = b.read(file, 0, 4 * BLOCK);
    assert_eq!(all.len(), 2 * BLOCK + 100, "a file may end inside a block");
    assert!(all[2 * BLOCK..].iter().all(|byte| *byte == 0));
}

fn holes<D: Disk>(b: &mut Bench<D>) {
    let file = b.create("f");
    b.write(file, 3, blocks(&[7]), true).unwrap();
    assert_eq!(b.read(file, 0, 8 * BLOCK), blocks(&[0, 0, 0, 7]));
}

fn lengths<D: Disk>(b: &mut Bench<D>) {
    let file = b.create("f");
    b.ok(Op::Grow { file, len: 3 * BLOCK as u64 });
    assert_eq!(b.read(file, 0, 8 * BLOCK), blocks(&[0, 0, 0]));
    b.write(file, 0, blocks(&[1, 2]), true).unwrap();
    b.ok(Op::Grow { file, len: 1 });
    assert_eq!(b.read(file, 0, 8 * BLOCK), blocks(&[1, 2, 0]), "growing takes nothing away");
    b.ok(Op::Sync { files: vec![file] });
    let (_, len) = b.open("f", OpenMode::Read).unwrap();
    assert_eq!(len, 3 * BLOCK as u64);
}

fn alignment<D: Disk>(b: &mut Bench<D>) {
    let file = b.create("f");
    let data = blocks(&[1, 2]);
    let skewed_memory = data.slice(512..512 + BLOCK);
    let bad = [(0, data.slice(..100)), (17, data.slice(..BLOCK)), (0, skewed_memory), (u64::MAX - 4095, data.clone())];
    for (offset, data) in bad {
        for durable in [true, false] {
            let result = b.run(Op::Write { file, offset, data: data.clone(), durable });
            assert!(matches!(result, Err(DiskError::Failed { .. })), "{result:?}");
        }
    }
    for (offset, len) in [(1, BLOCK), (0, BLOCK - 1), (0, 1)] {
        assert!(matches!(b.run(Op::Read { file, offset, len }), Err(DiskError::Failed { .. })));
    }
    assert!(b.read(file, 0, BLOCK).is_empty(), "nothing was written");
    b.write(file, 0, data.slice(BLOCK..), true).unwrap();
    assert_eq!(b.read(file, 0, BLOCK), blocks(&[2]), "a slice at a block boundary is aligned");
}

fn directories<D: Disk>(b: &mut Bench<D>) {
    b.ok(Op::CreateDir { path: "a/b/c".into() });
    b.ok(Op::CreateDir { path: "a/b/c".into() });
    for name in ["z", "y", "x"] {
        b.create(&format!("a/b/{name}"));
    }
    assert_eq!(b.list("a/b"), ["c", "x", "y", "z"]);
    assert_eq!(b.list(""), ["a"]);
    b.ok(Op::SyncDir { path: "a/b".into() });
    b.ok(Op::SyncDir { path: "".into() });
    assert!(b.run(Op::CreateDir { path: "a/b/x".into() }).is_err(), "a file is in the way");
    assert!(b.run(Op::Remove { path: "a/b".into() }).is_err(), "Remove is for files");
    b.ok(Op::Remove { path: "a/b/y".into() });
    assert_eq!(b.list("a/b"), ["c", "x", "z"]);
    b.ok(Op::RemoveDir { path: "a/b".into() });
    assert!(b.list("a").is_empty());
    assert!(b.list("a/b").is_empty());
    assert!(matches!(b.run(Op::FreeSpace).unwrap(), Done::Space { free, total } if free > 0 && total >= free));
}

fn rename_replaces<D: Disk>(b: &mut Bench<D>) {
    b.ok(Op::CreateDir { path: "d".into() });
    let (old, new) = (b.create("d/old"), b.create("new"));
    b.write(old, 0, blocks(&[1]), true).unwrap();
    b.write(new, 0, blocks(&[2]), true).unwrap();
    b.ok(Op::Rename { from: "new".into(), to: "d/old".into() });
    b.ok(Op::SyncDir { path: "d".into() });
    assert_eq!(b.list(""), ["d"]);
    assert_eq!(b.list("d"), ["old"]);
    let (file, _) = b.open("d/old", OpenMode::Read).unwrap();
    assert_eq!(b.read(file, 0, BLOCK), blocks(&[2]));
    b.ok(Op::Rename { from: "d".into(), to: "e".into() });
    assert_eq!(b.list("e"), ["old"]);
    assert_eq!(b.read(old, 0, BLOCK), blocks(&[1]), "an open handle keeps the file that it opened");
}

fn removed_while_open<D: Disk>(b: &mut Bench<D>) {
    let file = b.create("f");
    b.write(file, 0, blocks(&[5]), false).unwrap();
    b.ok(Op::Remove { path: "f".into() });
    assert!(b.list("").is_empty());
    assert_eq!(b.read(file, 0, BLOCK), blocks(&[5]));
    b.write(file, 1, blocks(&[6]), true).unwrap();
    b.ok(Op::Close { file });
    assert!(matches!(b.open("f", OpenMode::Read), Err(DiskError::NotFound { .. })));
}

fn shrunk_until_gone<D: Disk>(b: &mut Bench<D>) {
    let block = BLOCK as u64;
    let file = b.create("f");
    b.write(file, 0, blocks(&[1, 2, 3]), true).unwrap();
    b.ok(Op::Close { file });
    let shrink = |b: &mut Bench<D>| match b.run(Op::Shrink { path: "f".into(), by: 2 * block }) {
        Ok(Done::Shrunk { freed, left }) => (freed, left),
        other => panic!("{other:?}"),
    };
    assert_eq!(shrink(b), (2 * block, block));
    let (file, len) = b.open("f", OpenMode::Read).unwrap();
    assert_eq!((len, b.read(file, 0, 3 * BLOCK)), (block, blocks(&[1])));
    b.ok(Op::Close { file });
    assert_eq!(shrink(b), (block, 0));
    assert!(b.list("").is_empty());
    assert_eq!(shrink(b), (0, 0), "a missing file has nothing left");
    b.ok(Op::CreateDir { path: "d".into() });
    assert!(b.run(Op::Shrink { path: "d".into(), by: block }).is_err());
}

fn paths_stay_inside<D: Disk>(b: &mut Bench<D>) {
    for path in ["../escaped", "/tmp/escaped", "a/../../escaped"] {
        let path = PathBuf::from(path);
        assert!(b.run(Op::Open { path: path.clone(), mode: OpenMode::Create }).is_err());
        assert!(b.run(Op::Remove { path: path.clone() }).is_err());
        assert!(b.run(Op::Shrink { path: path.clone(), by: 1 }).is_err());
        assert!(b.run(Op::CreateDir { path: path.clone() }).is_err());
        assert!(b.run(Op::RemoveDir { path: path.clone() }).is_err());
        assert!(b.run(Op::List { path: path.clone() }).is_err());
        assert!(b.run(Op::SyncDir { path: path.clone() }).is_err());
        assert!(b.run(Op::Rename { from: path.clone(), to: "x".into() }).is_err());
    }
    assert!(b.run(Op::RemoveDir { path: "".into() }).is_err(), "the root stays");
}

fn many_in_flight<D: Disk>(b: &mut Bench<D>) {
    const COUNT: u64 = 2000;
    let file = b.create("f");
    let mut expected = BTreeSet::new();
    for i in 0..COUNT {
        let token = b.token();
        expected.insert(token);
        let data = blocks(&[u8::try_from(i % 251).unwrap()]);
        b.disk.submit(token, Op::Write { file, offset: i * BLOCK as u64, data, durable: i % 7 == 0 });
    }
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    while seen.len() < expected.len() {
        assert_eq!(b.disk.in_flight(), expected.len() - seen.len());
        b.disk.poll(&mut out);
        b.disk.wait(&mut out);
        for completion in out.drain(..) {
            completion.result.unwrap();
            assert!(seen.insert(completion.token), "{:?} completed twice", completion.token);
        }
    }
    assert_eq!(seen, expected);
    for i in (0..COUNT).rev().step_by(97) {
        assert_eq!(b.read(file, i * BLOCK as u64, BLOCK), blocks(&[u8::try_from(i % 251).unwrap()]));
    }
}

fn close_waits<D: Disk>(b: &mut Bench<D>) {
    for round in 0..50_u8 {
        let file = b.create("f");
        for block in 0..8 {
            let token = b.token();
            b.disk
                .submit(token, Op::Write { file, offset: block * BLOCK as u64, data: blocks(&[round]), durable: true });
        }
        let read = b.token();
        b.disk.submit(read, Op::Read { file, offset: 0, len: BLOCK });
        let close = b.token();
        b.disk.submit(close, Op::Close { file });
        let done = b.drain();
        assert_eq!(done.len(), 10);
        assert_eq!(done.last().map(|c| c.token), Some(close), "the close is last");
        assert!(done.iter().all(|c| c.result.is_ok()), "{done:?}");
    }
}

fn sync_many<D: Disk>(b: &mut Bench<D>) {
    b.ok(Op::Sync { files: Vec::new() });
    let files: Vec<FileId> = (0..100).map(|i| b.create(&format!("f{i}"))).collect();
    for file in &files {
        b.write(*file, 0, blocks(&[1]), false).unwrap();
    }
    b.ok(Op::Sync { files: files[..1].to_vec() });
    b.ok(Op::Sync { files });
}

fn empty<D: Disk>(b: &mut Bench<D>) {
    let file = b.create("f");
    b.write(file, 5, Bytes::new(), true).unwrap();
    assert!(b.read(file, 0, 0).is_empty());
    let (_, len) = b.open("f", OpenMode::Read).unwrap();
    assert_eq!(len, 0, "writing nothing grows nothing");
}

fn wait_for_nothing<D: Disk>(b: &mut Bench<D>) {
    let mut out = Vec::new();
    b.disk.wait(&mut out);
    b.disk.poll(&mut out);
    assert!(out.is_empty());
}

/// Directories on the file systems that this machine has; `fresh` gives an empty one each time.
pub(super) struct RealDirs {
    dir: tempfile::TempDir,
    count: std::cell::Cell<u32>,
}

impl RealDirs {
    pub(super) fn fresh(&self) -> PathBuf {
        self.count.set(self.count.get() + 1);
        self.dir.path().join(self.count.get().to_string())
    }
}

/// The usual temporary directory, and memory (where direct I/O may be missing).
pub(super) fn real_dirs() -> Vec<RealDirs> {
    let mut dirs = vec![tempfile::tempdir().unwrap()];
    match tempfile::tempdir_in("/dev/shm") {
        Ok(dir) => dirs.push(dir),
        Err(e) => println!("skipped: no tmpfs at /dev/shm ({e})"),
    }
    dirs.into_iter().map(|dir| RealDirs { dir, count: std::cell::Cell::new(0) }).collect()
}

/// A small file system of its own, mounted from a file for as long as this lives.
pub(super) struct SmallFs {
    dir: tempfile::TempDir,
}

impl SmallFs {
    /// None, with a notice, where this process may not mount.
    pub(super) fn mount(megabytes: u32) -> Option<Self> {
        let fs = Self { dir: tempfile::tempdir().unwrap() };
        let (image, mount) = (fs.dir.path().join("image"), fs.path());
        std::fs::create_dir(&mount).unwrap();
        std::fs::File::create(&image).unwrap().set_len(u64::from(megabytes) << 20).unwrap();
        let made = run("mkfs.ext4", &["-q", "-b", "4096", "-m", "0"], &[&image]);
        let mounted = made.and_then(|()| run("mount", &["-o", "loop"], &[&image, &mount]));
        match mounted {
            Ok(()) => Some(fs),
            Err(why) => {
                println!("skipped: can't mount a small file system ({why})");
                None
            }
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("mount")
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        if let Err(why) = run("umount", &[], &[&self.path()]) {
            println!("{why}");
        }
    }
}

fn run(program: &str, flags: &[&str], paths: &[&std::path::Path]) -> Result<(), String> {
    let output = std::process::Command::new(program).args(flags).args(paths).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(e) => Err(format!("{program}: {e}")),
    }
}

/// A real file system runs full: that is said as such, nothing written before is harmed, and removing makes room.
pub(super) fn full_disk<D: Disk>(disk: D) {
    let mut b = Bench::new(disk);
    let chunk = blocks(&[7; 64]);
    let first = b.create("first");
    b.write(first, 0, blocks(&[1, 2, 3]), true).unwrap();
    let filler = b.create("filler");
    let mut at = 0;
    let full = loop {
        match b.write(filler, at, chunk.clone(), true) {
            Ok(_) => at += 64,
            Err(error) => break error,
        }
        assert!(at < 1 << 20, "a file system of a few MB never runs full");
    };
    assert!(matches!(full, DiskError::Full { .. }), "{full}");
    assert!(matches!(b.run(Op::FreeSpace), Ok(Done::Space { free, .. }) if free < 64 * BLOCK as u64));
    assert_eq!(b.read(first, 0, 3 * BLOCK), blocks(&[1, 2, 3]));
    b.write(first, 1, blocks(&[9]), true).expect("writing over what is there needs no room");
    b.ok(Op::Close { file: filler });
    b.ok(Op::Remove { path: "filler".into() });
    b.ok(Op::SyncDir { path: "".into() });
    let next = b.create("next");
    b.write(next, 0, chunk, true).expect("there is room again");
    assert_eq!(b.read(first, 0, 3 * BLOCK), blocks(&[1, 9, 3]));
}
