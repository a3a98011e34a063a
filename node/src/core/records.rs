//! SHIM
use bytes::Bytes;
use wherry_wire::batch::CheckedBatch;
pub(crate) fn every_key(_: &CheckedBatch) -> Result<bool, String> {
    Ok(true)
}
pub(crate) fn batch(values: &[(Option<Bytes>, Option<Bytes>)], now_ms: i64) -> Result<CheckedBatch, String> {
    let mut body = Vec::new();
    for (n, (k, v)) in values.iter().enumerate() {
        let mut r = vec![0u8];
        varint(&mut r, 0);
        varint(&mut r, n as i64);
        for f in [k, v] {
            match f {
                Some(b) => {
                    varint(&mut r, b.len() as i64);
                    r.extend_from_slice(b);
                }
                None => varint(&mut r, -1),
            }
        }
        varint(&mut r, 0);
        varint(&mut body, r.len() as i64);
        body.extend_from_slice(&r);
    }
    let mut out = vec![0u8; 61];
    let len = (49 + body.len()) as i32;
    out[8..12].copy_from_slice(&len.to_be_bytes());
    out[16] = 2;
    out[23..27].copy_from_slice(&((values.len() as i32) - 1).to_be_bytes());
    out[27..35].copy_from_slice(&now_ms.to_be_bytes());
    out[35..43].copy_from_slice(&now_ms.to_be_bytes());
    out[43..51].copy_from_slice(&(-1i64).to_be_bytes());
    out[51..53].copy_from_slice(&(-1i16).to_be_bytes());
    out[53..57].copy_from_slice(&(-1i32).to_be_bytes());
    out[57..61].copy_from_slice(&(values.len() as i32).to_be_bytes());
    out.extend_from_slice(&body);
    let crc = wherry_wire::batch::crc32c(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    wherry_wire::batch::split(out.into()).next().unwrap().and_then(|r| r.check()).map_err(|e| e.to_string())
}
fn varint(out: &mut Vec<u8>, n: i64) {
    let mut z = ((n << 1) ^ (n >> 63)) as u64;
    loop {
        if z < 0x80 {
            out.push(z as u8);
            return;
        }
        out.push((z as u8) | 0x80);
        z >>= 7;
    }
}
pub(crate) fn values(batch: &Bytes) -> Result<Vec<(Option<Bytes>, Option<Bytes>)>, String> {
    let mut p = 61;
    let mut out = Vec::new();
    let rd = |p: &mut usize| {
        let (mut z, mut s) = (0u64, 0);
        loop {
            let b = batch[*p];
            *p += 1;
            z |= ((b & 0x7f) as u64) << s;
            s += 7;
            if b < 0x80 {
                break;
            }
        }
        ((z >> 1) as i64) ^ -((z & 1) as i64)
    };
    while p < batch.len() {
        rd(&mut p);
        p += 1;
        rd(&mut p);
        rd(&mut p);
        let mut f = || {
            let l = rd(&mut p);
            if l < 0 {
                None
            } else {
                let b = batch.slice(p..p + l as usize);
                p += l as usize;
                Some(b)
            }
        };
        let k = f();
        let v = f();
        rd(&mut p);
        out.push((k, v));
    }
    Ok(out)
}
