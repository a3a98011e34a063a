//! Random messages that obey the schema, with the places of all their counts and lengths, so that tests can lie there.

use crate::codec::schema::{Field, Kind, Message};

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

/// Where a count or length stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) at: usize,
    /// Bytes that it takes.
    pub(crate) len: usize,
    pub(crate) form: Form,
    pub(crate) is_count: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Short,
    Long,
    Compact,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    pub(crate) places: Vec<Place>,
}

impl Sample {
    /// The same bytes with another value (of which a compact form gets one more) at a place.
    pub(crate) fn with(&self, place: Place, value: u32) -> Vec<u8> {
        let mut replaced = self.bytes[..place.at].to_vec();
        match place.form {
            Form::Short => replaced.extend_from_slice(&(value as u16).to_be_bytes()),
            Form::Long => replaced.extend_from_slice(&value.to_be_bytes()),
            Form::Compact => put_uvarint(&mut replaced, value.wrapping_add(1)),
        }
        replaced.extend_from_slice(&self.bytes[place.at + place.len..]);
        replaced
    }
}

pub(crate) fn put_uvarint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn sample(message: &Message, version: i16, random: &mut Random) -> Sample {
    let mut writer = Writer { sample: Sample::default(), version, flexible: message.is_flexible(version), random };
    writer.fields(message.fields);
    writer.sample
}

struct Writer<'a> {
    sample: Sample,
    version: i16,
    flexible: bool,
    random: &'a mut Random,
}

impl Writer<'_> {
    fn number(&mut self, form: Form, value: Option<usize>, is_count: bool) {
        let at = self.sample.bytes.len();
        let out = &mut self.sample.bytes;
        let form = if self.flexible { Form::Compact } else { form };
        match form {
            Form::Short => out.extend_from_slice(&value.map_or(-1, |v| v as i16).to_be_bytes()),
            Form::Long => out.extend_from_slice(&value.map_or(-1, |v| v as i32).to_be_bytes()),
            Form::Compact => put_uvarint(out, value.map_or(0, |v| v as u32 + 1)),
        }
        let len = self.sample.bytes.len() - at;
        self.sample.places.push(Place { at, len, form, is_count });
    }

    fn fields(&mut self, fields: &[Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.is_inline(version)) {
            self.value(&field.kind, field.nullable.has(self.version));
        }
        if self.flexible {
            self.tagged(fields);
        }
    }

    fn tagged(&mut self, fields: &[Field]) {
        let mut known: Vec<&Field> = fields.iter().filter(|f| f.tagged.has(self.version)).collect();
        known.sort_by_key(|field| field.tag);
        known.retain(|_| self.random.chance(2));
        let unknown = usize::from(self.random.chance(8));
        put_uvarint(&mut self.sample.bytes, (known.len() + unknown) as u32);
        for field in known {
            put_uvarint(&mut self.sample.bytes, field.tag);
            self.sized(|writer| writer.value(&field.kind, field.nullable.has(writer.version)));
        }
        if unknown > 0 {
            put_uvarint(&mut self.sample.bytes, 1000);
            self.sized(|writer| writer.sample.bytes.extend_from_slice(b"unknown"));
        }
    }

    /// What `content` writes, with its length before it.
    fn sized(&mut self, content: impl FnOnce(&mut Self)) {
        let outer = std::mem::take(&mut self.sample);
        content(self);
        let inner = std::mem::replace(&mut self.sample, outer);
        put_uvarint(&mut self.sample.bytes, inner.bytes.len() as u32);
        let base = self.sample.bytes.len();
        self.sample.bytes.extend_from_slice(&inner.bytes);
        self.sample.places.extend(inner.places.iter().map(|place| Place { at: place.at + base, ..*place }));
    }

    fn value(&mut self, kind: &Kind, nullable: bool) {
        let null = nullable && self.random.chance(4);
        match kind {
            Kind::Fixed(len) => {
                let value = self.random.next().to_be_bytes();
                self.sample.bytes.extend(value.iter().cycle().take(usize::from(*len)));
            }
            Kind::String => self.blob(Form::Short, null),
            Kind::Bytes | Kind::Records => self.blob(Form::Long, null),
            Kind::Array(element) => self.array(element, null),
            Kind::Struct(fields) => {
                if nullable {
                    self.sample.bytes.push(if null { 0xFF } else { 1 });
                }
                if !null {
                    self.fields(fields);
                }
            }
        }
    }

    fn blob(&mut self, form: Form, null: bool) {
        let len = self.random.below(12);
        self.number(form, (!null).then_some(len), false);
        if !null {
            self.sample.bytes.extend((0..len).map(|_| b'a' + self.random.below(26) as u8));
        }
    }

    fn array(&mut self, element: &Kind, null: bool) {
        let count = 1 + self.random.below(3);
        self.number(Form::Long, (!null).then_some(count), true);
        if !null {
            for _ in 0..count {
                self.value(element, false);
            }
        }
    }
}
