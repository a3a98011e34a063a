//! What this machine permits, asked at start-up. Changes nothing.

use std::fs::File;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags};

use super::BLOCK;
use super::ring::{Owner, Ring, RingConfig, Wait};

/// Whether io_uring can carry a shard here: makes a small ring, checks the operations that it needs, does one.
///
/// # Errors
/// A sentence for people: why not, and what would change that.
pub fn probe_uring() -> Result<(), String> {
    let config = RingConfig { entries: 4, recv_buffers: 2, recv_buffer_bytes: BLOCK };
    let mut ring = Ring::new(&config).map_err(|e| explain(&e))?;
    ring.nop(Owner::Net, 1);
    ring.enter(Wait::AtMost(Duration::from_secs(5))).map_err(|e| explain(&e))?;
    let mut events = Vec::new();
    ring.take(Owner::Net, &mut events);
    if events.len() == 1 { Ok(()) } else { Err("io_uring accepted an operation and never completed it".into()) }
}

fn explain(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            format!(
                "io_uring is not permitted ({error}): a seccomp profile or the sysctl kernel.io_uring_disabled forbids it"
            )
        }
        Some(libc::ENOSYS) => format!("the kernel has no io_uring, or a seccomp profile hides it ({error})"),
        Some(libc::EINVAL) => format!("the kernel's io_uring is too old, 5.19 is needed ({error})"),
        Some(libc::ENOMEM) => {
            let limit = memlock_limit().map_or_else(|| "unlimited".into(), |bytes| format!("{bytes} bytes"));
            format!("no locked memory for io_uring ({error}): RLIMIT_MEMLOCK is {limit}")
        }
        _ => error.to_string(),
    }
}

/// `RLIMIT_MEMLOCK` in bytes, which bounds registered buffers (and rings, before Linux 5.12); `None` if unlimited.
#[must_use]
pub fn memlock_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// Whether direct I/O on this file works with offsets, lengths and memory aligned to [`BLOCK`] (`STATX_DIOALIGN`,
/// Linux 6.1). Where the kernel does not say, the open with `O_DIRECT` has decided.
pub(super) fn direct_io_fits(file: &File) -> bool {
    let Ok(stat) = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return true };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return true;
    }
    let fits = |align: u32| align != 0 && BLOCK.is_multiple_of(align as usize);
    fits(stat.stx_dio_mem_align) && fits(stat.stx_dio_offset_align)
}
