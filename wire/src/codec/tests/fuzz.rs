//! Fuzz targets: bytes from nowhere, and sound messages that were tampered with. They run as ordinary tests for a bounded
//! number of rounds, and for as long as one likes with `cargo bolero`.

use super::hostile::decode_bound;
use super::*;
use crate::frame;
use crate::limits::MAX_FRAME_BYTES;
use crate::meter::peak;

#[test]
fn fuzz_frame_lengths() {
    bolero::check!().with_iterations(20_000).with_type::<[u8; 4]>().for_each(|prefix| {
        let declared = i32::from_be_bytes(*prefix);
        for length in [frame::request_length(*prefix), frame::response_length(*prefix)].into_iter().flatten() {
            assert!(length <= MAX_FRAME_BYTES && length as i32 == declared);
        }
    });
}

#[test]
fn fuzz_requests_from_nowhere() {
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
        let frame = Bytes::copy_from_slice(bytes);
        let (_, taken) = peak(|| decode_request(frame).is_ok());
        assert!(taken <= decode_bound(bytes.len()), "{taken} of {}", bytes.len());
    });
}

/// A sound message, and what is done to it.
#[derive(Debug, bolero::TypeGenerator)]
struct Tampered {
    api: u8,
    version: u8,
    seed: u64,
    edits: Vec<Edit>,
    cut: Option<u16>,
}

#[derive(Debug, bolero::TypeGenerator)]
enum Edit {
    Set(u16, u8),
    Insert(u16, u8),
    Remove(u16),
    Lie(u16, u32),
}

impl Tampered {
    fn message(&self, table: &'static [Message]) -> (&'static Message, i16, Vec<u8>) {
        let message = &table[usize::from(self.api) % table.len()];
        let versions = message.max_version - message.min_version + 1;
        let version = message.min_version + i16::from(self.version) % versions;
        let sample = sample(message, version, &mut Random(self.seed));
        (message, version, self.apply(&sample))
    }

    fn apply(&self, sample: &Sample) -> Vec<u8> {
        let mut bytes = sample.bytes.clone();
        for edit in self.edits.iter().take(8) {
            match edit {
                _ if bytes.is_empty() => {}
                Edit::Set(at, value) => {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] = *value;
                }
                Edit::Insert(at, value) => bytes.insert(usize::from(*at) % bytes.len(), *value),
                Edit::Remove(at) => drop(bytes.remove(usize::from(*at) % bytes.len())),
                Edit::Lie(at, value) => {
                    if !sample.places.is_empty() {
                        bytes = sample.with(sample.places[usize::from(*at) % sample.places.len()], *value);
                    }
                }
            }
        }
        if let Some(cut) = self.cut {
            bytes.truncate(usize::from(cut) % (bytes.len() + 1));
        }
        bytes
    }
}

#[test]
fn fuzz_requests_tampered_with() {
    bolero::check!().with_iterations(20_000).with_type::<Tampered>().for_each(|tampered| {
        let (message, version, body) = tampered.message(REQUESTS);
        let frame = request_frame(message, version, &body);
        let bound = decode_bound(frame.len());
        let (decoded, taken) = peak(|| decode_request(frame));
        assert!(taken <= bound, "{} v{version}: {taken} of {}", message.name, body.len());
        if let Ok(request) = decoded {
            let again = decode_request(encode_any_request(&request).slice(4..)).expect("decodes what it encoded");
            assert_eq!(again, request);
        }
    });
}

#[test]
fn fuzz_responses_tampered_with() {
    bolero::check!().with_iterations(20_000).with_type::<Tampered>().for_each(|tampered| {
        let (message, version, body) = tampered.message(RESPONSES);
        let frame = response_frame(message, version, &body);
        let bound = 2 * decode_bound(frame.len());
        let (_, taken) = peak(|| decode_any_response(message.api_key, version, frame).is_ok());
        assert!(taken <= bound, "{} v{version}: {taken} of {}", message.name, body.len());
    });
}
