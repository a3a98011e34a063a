//! Each topic is cut into ranges, one for each of its readers in the order of their names; the first get one more where it
//! does not come out even. Readers of the same topics so get the same numbers of each.

use super::{Parts, Spec};

pub(super) fn assign(spec: &Spec<'_>) -> Vec<Parts> {
    let mut assigned = vec![Parts::new(); spec.members.len()];
    for (topic, mut readers) in spec.topics.iter().zip(spec.readers()) {
        readers.sort_by_key(|reader| spec.members.get(*reader).map(|member| member.name));
        let (count, mut from) = (i32::try_from(readers.len()).unwrap_or(i32::MAX), 0);
        for (place, reader) in (0..count).zip(readers) {
            let size = topic.partitions / count + i32::from(place < topic.partitions % count);
            if size > 0
                && let Some(parts) = assigned.get_mut(reader)
            {
                parts.entry(topic.id).or_default().extend(from..from + size);
            }
            from += size;
        }
    }
    assigned
}
