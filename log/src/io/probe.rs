//! What this machine permits, asked at start-up. Changes nothing.

use std::fs::File;

use rustix::fs::{AtFlags, StatxFlags};

use super::BLOCK;

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
