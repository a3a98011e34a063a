use super::*;
use crate::batch::split;
use crate::compress::Codec;

#[test]
fn what_is_built_is_read_back() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec, None);
        for i in 0..500_i64 {
            let value = format!("value {i}");
            let headers = [("h", "1"), ("h", "2"), ("", "")];
            builder.append(1_000_000 + (i * 7) % 13, Some(b"key"), Some(value.as_bytes()), &headers).unwrap();
        }
        let stamp = Stamp { producer_id: 5, producer_epoch: 2, base_sequence: 77 };
        let batch = split(builder.build(stamp).unwrap()).next().unwrap().unwrap().check().unwrap();
        assert_eq!(batch.header().producer_id, 5);
        assert_eq!(batch.header().max_timestamp, 1_000_012);
        let options = ValidateOptions { require_keys: true, max_len: 1 << 20 };
        let summary = validate_records(batch.header(), batch.bytes(), options).unwrap();
        assert_eq!((summary.count, summary.max_timestamp), (500, 1_000_012));
        let all: Vec<_> =
            records(batch.header(), batch.bytes(), 1 << 20).unwrap().into_iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 500);
        assert_eq!(all[499].value.as_deref(), Some(&b"value 499"[..]));
        let names: Vec<_> = all[3].headers.iter().map(|h| (h.name().into_owned(), h.value)).collect();
        assert_eq!(
            names,
            [("h".into(), Some("1".into())), ("h".into(), Some("2".into())), (String::new(), Some("".into()))]
        );
    }
}
