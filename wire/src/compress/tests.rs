use std::io::Write;

use super::*;
use crate::limits::DECOMPRESSOR_WORKSPACE_BYTES;
use crate::meter::peak;
use proptest::prelude::*;

const COMPRESSING: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn text() -> Vec<u8> {
    (0..300_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
}

fn noise(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Whatever comes out, the memory stays within the bound.
fn bounded(codec: Codec, packed: &[u8], max_len: usize) -> Result<Bytes, DecompressError> {
    let (result, taken) = peak(|| decompress(codec, packed, max_len));
    assert!(taken <= max_len + DECOMPRESSOR_WORKSPACE_BYTES, "{codec}: {taken} bytes for a bound of {max_len}");
    if let Ok(bytes) = &result {
        assert!(bytes.len() <= max_len);
    }
    result
}

fn too_large(codec: Codec, packed: &[u8], limit: usize) {
    assert_eq!(bounded(codec, packed, limit), Err(DecompressError::TooLarge { codec, limit }));
}

fn corrupt(codec: Codec, packed: &[u8], limit: usize) {
    let result = bounded(codec, packed, limit);
    assert!(matches!(result, Err(DecompressError::Corrupt { .. })), "{codec}: {result:?}");
}

#[test]
fn every_codec_gives_back_what_it_took() {
    for codec in Codec::ALL {
        for input in [&b""[..], b"a", b"abcabcabcabcabcabcabc", &text(), &noise(200_000), &[7; 65_536], &[7; 65_537]] {
            let packed = compress(codec, None, input).unwrap();
            assert_eq!(bounded(codec, &packed, input.len()).as_deref(), Ok(input), "{codec} {}", input.len());
            assert_eq!(bounded(codec, &packed, 100 << 20).as_deref(), Ok(input), "{codec} {}", input.len());
            if !input.is_empty() {
                too_large(codec, &packed, input.len() - 1);
                too_large(codec, &packed, 0);
            }
        }
    }
}

#[test]
fn levels_are_those_of_the_codec() {
    let input = text();
    for codec in Codec::ALL {
        for level in codec.levels().into_iter().flat_map(|levels| [*levels.start(), 1, 5, 9]) {
            let packed = compress(codec, Some(level), &input).unwrap();
            assert_eq!(bounded(codec, &packed, input.len()).as_deref(), Ok(&input[..]), "{codec} {level}");
        }
    }
    assert_eq!(compress(Codec::Gzip, Some(10), b""), Err(CompressError::Level { codec: Codec::Gzip, level: 10 }));
    assert_eq!(compress(Codec::Zstd, Some(23), b""), Err(CompressError::Level { codec: Codec::Zstd, level: 23 }));
    let sizes = [1, 9].map(|level| compress(Codec::Gzip, Some(level), &input).unwrap().len());
    assert!(sizes[1] < sizes[0], "{sizes:?}");
}

#[test]
fn names_and_ids_are_those_of_kafka() {
    for (id, name) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        let codec = Codec::from_id(id as u8).unwrap();
        assert_eq!((usize::from(codec.id()), codec.name(), name.parse()), (id, name, Ok(codec)));
    }
    assert_eq!(Codec::from_id(5), None);
    assert!("GZIP2".parse::<Codec>().unwrap_err().to_string().contains("GZIP2"));
}

#[test]
fn memory_is_used_again() {
    let (small, large) = (noise(1000), noise(200_000));
    for codec in Codec::ALL {
        let mut out = Vec::new();
        decompress_into(codec, &compress(codec, None, &large).unwrap(), large.len(), &mut out).unwrap();
        assert_eq!(out, large);
        let packed = compress(codec, None, &small).unwrap();
        decompress_into(codec, &packed, small.len(), &mut out).unwrap();
        assert_eq!(out, small);
        // The memory at hand is not the bound.
        let limit = small.len() - 1;
        let result = decompress_into(codec, &packed, limit, &mut out);
        assert_eq!(result, Err(DecompressError::TooLarge { codec, limit }));
    }
    // Nor is it where the frame does not say its size.
    let (mut out, codec, limit) = (Vec::with_capacity(10_000), Codec::Zstd, small.len() - 1);
    let result = decompress_into(codec, &zstd_streamed(&small, 17), limit, &mut out);
    assert_eq!(result, Err(DecompressError::TooLarge { codec, limit }));
}

#[test]
fn compressing_appends() {
    for codec in Codec::ALL {
        let mut out = b"header".to_vec();
        compress_into(codec, None, b"body body body", &mut out).unwrap();
        assert_eq!(&out[..6], b"header");
        assert_eq!(bounded(codec, &out[6..], 100).as_deref(), Ok(&b"body body body"[..]));
    }
}

/// A million zeros to some hundred bytes, stacked up to a gigabyte where the format takes frames one after another.
#[test]
fn bombs_end_at_the_bound() {
    let mebibyte = vec![0_u8; 1 << 20];
    for codec in COMPRESSING {
        let one = compress(codec, None, &mebibyte).unwrap();
        let bomb = match codec {
            Codec::Snappy => compress(codec, None, &vec![0; 64 << 20]).unwrap(),
            _ => one.repeat(1024),
        };
        for limit in [0, 1, 1000, 100_000, 1 << 20, 8 << 20] {
            too_large(codec, &bomb, limit);
        }
    }
}

fn xerial(blocks: &[&[u8]]) -> Vec<u8> {
    let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for block in blocks {
        let packed = compress(Codec::Snappy, None, block).unwrap();
        framed.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        framed.extend_from_slice(&packed);
    }
    framed
}

#[test]
fn the_xerial_framing_is_read() {
    let input = text();
    let blocks: Vec<&[u8]> = input.chunks(32 * 1024).collect();
    let framed = xerial(&blocks);
    assert_eq!(bounded(Codec::Snappy, &framed, input.len()).as_deref(), Ok(&input[..]));
    too_large(Codec::Snappy, &framed, input.len() - 1);
    assert_eq!(bounded(Codec::Snappy, &xerial(&[]), 10).as_deref(), Ok(&b""[..]));
    corrupt(Codec::Snappy, &framed[..framed.len() - 1], input.len());
    corrupt(Codec::Snappy, &framed[..12], 100);
    let mut lying = xerial(&[b"abc"]);
    lying[16..20].copy_from_slice(&[0xFF; 4]);
    corrupt(Codec::Snappy, &lying, 100);
}

#[test]
fn snappy_that_declares_more_than_it_holds_takes_nothing() {
    // A length of 4 GiB - 1, or of 50 MiB, and one literal.
    too_large(Codec::Snappy, &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0, b'a'], 100 << 20);
    let (result, taken) = peak(|| decompress(Codec::Snappy, &[0x80, 0x80, 0x80, 0x19, 0, b'a'], 100 << 20));
    assert!(matches!(result, Err(DecompressError::Corrupt { .. })), "{result:?}");
    assert!(taken < 1000, "{taken}");
}

fn lz4_frame(input: &[u8], info: lz4_flex::frame::FrameInfo) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(input).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn lz4_frames_of_other_writers_are_read() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameInfo};
    for input in [&b""[..], b"short", &text(), &noise(300_000)] {
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
                for checks in [false, true] {
                    let info = FrameInfo::new()
                        .block_mode(mode)
                        .block_size(size)
                        .block_checksums(checks)
                        .content_checksum(checks)
                        .content_size(checks.then_some(input.len() as u64));
                    let frame = lz4_frame(input, info);
                    assert_eq!(bounded(Codec::Lz4, &frame, input.len()).as_deref(), Ok(input), "{mode:?} {size:?}");
                    if !input.is_empty() {
                        too_large(Codec::Lz4, &frame, input.len() - 1);
                    }
                }
            }
        }
    }
}

#[test]
fn our_lz4_frames_are_read_by_others() {
    for input in [&b""[..], b"short", &text(), &noise(300_000)] {
        let packed = compress(Codec::Lz4, None, input).unwrap();
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut lz4_flex::frame::FrameDecoder::new(&packed[..]), &mut read).unwrap();
        assert_eq!(read, input);
        // The Java client reads independent blocks only.
        assert_eq!(packed[4] & 0x20, 0x20);
    }
}

#[test]
fn lz4_headers_that_are_wrong_are_refused() {
    let good = compress(Codec::Lz4, None, b"some bytes").unwrap();
    for at in 0..7 {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            corrupt(Codec::Lz4, &bad, 100);
        }
    }
    // A content size of 2^60: believed neither for memory nor at the end.
    let info = lz4_flex::frame::FrameInfo::new().content_size(Some(10));
    let mut lying = lz4_frame(b"ten bytes.", info);
    lying[6..14].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    lying[14] = lz4::header_checksum(&lying[4..14]);
    corrupt(Codec::Lz4, &lying, 100 << 20);
}

#[test]
fn gzip_members_follow_one_another() {
    let (one, two) = (compress(Codec::Gzip, None, b"one ").unwrap(), compress(Codec::Gzip, Some(9), b"two").unwrap());
    assert_eq!(bounded(Codec::Gzip, &[one, two].concat(), 7).as_deref(), Ok(&b"one two"[..]));
}

#[test]
fn gzip_that_lies_about_its_size_is_not_believed() {
    let mut packed = compress(Codec::Gzip, None, b"small").unwrap();
    let end = packed.len();
    packed[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    let (result, taken) = peak(|| decompress(Codec::Gzip, &packed, 100 << 20));
    assert!(result.is_err());
    assert!(taken < DECOMPRESSOR_WORKSPACE_BYTES, "{taken}");
}

/// A writer that streams does not know the size in advance.
fn zstd_streamed(input: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.include_checksum(true).unwrap();
    for chunk in input.chunks(10_000) {
        encoder.write_all(chunk).unwrap();
    }
    encoder.finish().unwrap()
}

#[test]
fn zstd_frames_of_streaming_writers_are_read() {
    for input in [&b""[..], b"short", &text(), &noise(300_000)] {
        for window_log in [10, 17, 27] {
            let packed = zstd_streamed(input, window_log);
            assert_eq!(bounded(Codec::Zstd, &packed, 100 << 20).as_deref(), Ok(input));
            assert_eq!(bounded(Codec::Zstd, &packed, input.len()).as_deref(), Ok(input));
            if !input.is_empty() {
                too_large(Codec::Zstd, &packed, input.len() - 1);
            }
        }
    }
}

#[test]
fn zstd_frames_and_skippable_ones_follow_one_another() {
    let mut packed = compress(Codec::Zstd, None, b"one ").unwrap();
    packed.extend_from_slice(b"\x53\x2a\x4d\x18\x03\0\0\0abc");
    packed.extend_from_slice(&zstd_streamed(b"two", 10));
    assert_eq!(bounded(Codec::Zstd, &packed, 7).as_deref(), Ok(&b"one two"[..]));
}

#[test]
fn zstd_headers_that_lie_take_nothing() {
    let magic = 0xFD2F_B528_u32.to_le_bytes();
    let frame = |rest: &[u8]| [&magic[..], rest].concat();
    // A window of terabytes, no size, one raw block of one byte.
    let vast_window = frame(&[0x00, 0xFF, 0x09, 0, 0, b'x']);
    let (_, taken) = peak(|| decompress(Codec::Zstd, &vast_window, 100 << 20));
    assert!(taken < 1000, "{taken}");
    // A size of 2^60 and a block of one byte.
    let vast_size = frame(&[0xE0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x09, 0, 0, b'x']);
    corrupt(Codec::Zstd, &vast_size, 100 << 20);
    // A hundred thousand blocks that repeat a byte, 128 KiB each, of unknown size: 12 GiB of 400 KiB.
    let mut repeats = frame(&[0x00, 0x58]);
    for _ in 0..100_000 {
        repeats.extend_from_slice(&[0x02, 0x00, 0x10, b'x']);
    }
    repeats.extend_from_slice(&[0x01, 0, 0]);
    too_large(Codec::Zstd, &repeats, 1 << 20);
}

#[test]
fn every_prefix_of_compressed_bytes_is_refused() {
    let input = b"a line of text, again a line of text, and again a line of text".repeat(20);
    for codec in COMPRESSING {
        let packed = compress(codec, None, &input).unwrap();
        for len in 0..packed.len() {
            let result = bounded(codec, &packed[..len], input.len() * 2);
            // No frame at all is an empty sequence of frames.
            let nothing = len == 0 && result.as_deref() == Ok(&[]);
            assert!(nothing || matches!(result, Err(DecompressError::Corrupt { .. })), "{codec} {len}: {result:?}");
        }
    }
}

#[test]
fn flipped_bits_neither_panic_nor_take_memory() {
    let input = b"a line of text, again a line of text, and again a line of text".repeat(8);
    for codec in COMPRESSING {
        let packed = compress(codec, None, &input).unwrap();
        for at in 0..packed.len() * 8 {
            let mut bad = packed.clone();
            bad[at / 8] ^= 1 << (at % 8);
            let _any = bounded(codec, &bad, 10_000);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn anything_survives_the_trip(
        input in prop::collection::vec(prop_oneof![3 => Just(b'a'), 1 => any::<u8>()], 0..5000),
        codec in prop::sample::select(&Codec::ALL),
    ) {
        let packed = compress(codec, None, &input).unwrap();
        prop_assert_eq!(bounded(codec, &packed, input.len()), Ok(Bytes::from(input)));
    }
}

#[test]
fn fuzz_decompressors() {
    bolero::check!().with_iterations(20_000).with_type::<(u8, u16, Vec<u8>)>().for_each(|(codec, limit, bytes)| {
        let codec = Codec::ALL[usize::from(*codec) % 5];
        let _any = bounded(codec, bytes, usize::from(*limit));
        // The same as the content of something that begins as it should.
        let magic: &[u8] = match codec {
            Codec::None => b"",
            Codec::Gzip => b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
            Codec::Snappy => b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01",
            Codec::Lz4 => b"\x04\x22\x4d\x18\x60\x40\x82",
            Codec::Zstd => b"\x28\xb5\x2f\xfd\0\x58",
        };
        let _any = bounded(codec, &[magic, bytes].concat(), usize::from(*limit));
    });
}
