//! Zigzag varints, as records use them.

/// Most bytes of a varint of 64 bits.
pub(crate) const MAX_LEN: usize = 10;

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Bytes that `value` takes.
pub(crate) const fn len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends `value`.
#[inline]
pub(crate) fn put(to: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        to.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    to.push(rest.to_le_bytes()[0]);
}

/// Takes a varint off the start of `from`; `None` if it is cut short or longer than 64 bits.
#[inline]
pub(crate) fn take(from: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for (index, byte) in from.iter().enumerate().take(MAX_LEN) {
        value |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            // The tenth byte has room for one bit.
            if index == MAX_LEN - 1 && *byte > 1 {
                return None;
            }
            *from = from.get(index + 1..)?;
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}
