//! The device's own latency of a durable 4 KiB write: the yardstick for a lone append.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rustix::fs::OFlags;

const BLOCK: usize = 4096;
const FILE_BYTES: u64 = 16 << 20;

/// Latencies, in nanoseconds, of `count` writes of 4 KiB, O_DIRECT and O_DSYNC, one at a time, over a file that was
/// written before (so that no write has to allocate).
pub fn dsync_latency(dir: &Path, count: usize) -> Result<Histogram<u64>> {
    let path = dir.join("device.tmp");
    let zeros = vec![0; 1 << 20];
    let file = File::create(&path)?;
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed();
    let direct = OpenOptions::new().write(true).custom_flags(flags).open(&path);
    let direct = direct.with_context(|| format!("{} has no O_DIRECT: not a real disk", dir.display()))?;
    let buffer = vec![0x5a; 2 * BLOCK]; // holds one block that is aligned
    let skip = buffer.as_ptr().align_offset(BLOCK);
    let block = &buffer[skip..skip + BLOCK];
    let mut histogram = Histogram::new(3)?;
    for i in 0..count {
        let at = (i as u64 * BLOCK as u64) % FILE_BYTES;
        let begin = Instant::now();
        direct.write_all_at(block, at)?;
        if i >= count / 10 {
            histogram.record(u64::try_from(begin.elapsed().as_nanos())?)?;
        }
    }
    std::fs::remove_file(&path)?;
    Ok(histogram)
}
