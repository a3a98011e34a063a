//! A small ext4 in a file, mounted through a loop device: its power can be cut, and it can be filled.
//! It needs root. It must not know what is kept on it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::clients::python;
use crate::process::Program;
use crate::{notice, until};

/// How the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After the file system has written everything out: only the process is surprised.
    AllFlushed,
    /// After the file system's own journal is written: metadata is whole, file data that nobody synced is gone.
    JournalFlushed,
    /// At once: whatever nobody synced is gone.
    NothingFlushed,
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct LoopFs {
    image: PathBuf,
    mount: PathBuf,
    _dir: TempDir,
}

impl LoopFs {
    /// Makes and mounts one of `mib` MiB; `None`, with a notice that names the test, where that is not permitted.
    pub fn mount_new(mib: u64, test: &str) -> Result<Option<LoopFs>> {
        if !rustix::process::geteuid().is_root() {
            notice(&format!("{test} was NOT run: it needs root, for a loop-mounted file system"));
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("wherry-loop-").tempdir()?;
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        std::fs::File::create(&image)?.set_len(mib << 20)?;
        std::fs::create_dir(&mount)?;
        Program::new("mkfs.ext4").typed("-q -F -m 0 -E lazy_itable_init=0,lazy_journal_init=0").arg(&image).run()?;
        let fs = LoopFs { image, mount, _dir: dir };
        match fs.mount() {
            Ok(()) => Ok(Some(fs)),
            Err(e) => {
                notice(&format!("{test} was NOT run: this machine mounts no loop devices ({e:#})"));
                Ok(None)
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn mount(&self) -> Result<()> {
        Program::new("mount").typed("-o loop").arg(&self.image).arg(&self.mount).run().map(drop)
    }

    /// Writes everything out.
    pub fn sync(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(std::fs::File::open(&self.mount)?)?)
    }

    /// Cuts the power: from now on every operation fails.
    pub fn cut_power(&self, how: Cut) -> Result<()> {
        let how = match how {
            Cut::AllFlushed => "default",
            Cut::JournalFlushed => "logflush",
            Cut::NothingFlushed => "nologflush",
        };
        python("shutdown_fs.py").arg(&self.mount).arg(how).run().map(drop).context("EXT4_IOC_SHUTDOWN")
    }

    /// Unmounts and mounts it again, as after a restart of the machine. Nobody may use it any more.
    pub fn restore_power(&self) -> Result<()> {
        until("the file system to be free", || Ok(Program::new("umount").arg(&self.mount).finish()?.status.success()))?;
        self.mount()
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.mount)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let unmounted = until("the file system to be free", || {
            Ok(Program::new("umount").arg(&self.mount).finish()?.status.success())
        });
        if let Err(e) = unmounted {
            notice(&format!("{} is still mounted: {e:#}", self.mount.display()));
        }
    }
}
