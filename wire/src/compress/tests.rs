use super::*;

#[test]
fn every_codec_gives_back_what_it_took() {
    let text: Vec<u8> = (0..300_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    let noise: Vec<u8> = (0..200_000_u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    for codec in Codec::ALL {
        for input in [&b""[..], b"a", b"abcabcabcabcabcabcabc", &text, &noise] {
            let packed = compress(codec, None, input).unwrap();
            let unpacked = decompress(codec, &packed, input.len());
            assert_eq!(unpacked.as_deref(), Ok(input), "{codec} {}", input.len());
            if !input.is_empty() {
                let limit = input.len() - 1;
                assert_eq!(
                    decompress(codec, &packed, limit),
                    Err(DecompressError::TooLarge { codec, limit }),
                    "{codec}"
                );
            }
        }
    }
}
