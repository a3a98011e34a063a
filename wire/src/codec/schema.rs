//! The shape of messages, and a walk over a frame that holds every declared count and length against the bytes that are
//! there (INV-8). It allocates nothing unless it refuses.
//!
//! The kafka-protocol crate allocates arrays of whatever count a frame declares, so nothing reaches it unwalked. The walk
//! accepts what its decoders accept, or less; it knows no meanings. The shapes stand in the generated `schema_table`.

use std::fmt;

use super::schema_table::{requests::REQUESTS, responses::RESPONSES};
use crate::limits::{MAX_NESTING, MAX_REQUEST_ELEMENTS, MAX_RESPONSE_ELEMENTS, MAX_TAGGED_FIELDS};

/// The body of a request or response.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) name: &'static str,
    pub(super) api_key: i16,
    pub(super) min_version: i16,
    pub(super) max_version: i16,
    /// The first version with compact lengths and tagged fields (KIP-482).
    pub(super) flexible_since: i16,
    pub(super) fields: &'static [Field],
}

/// First and last version of something; empty if the last is below the first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Versions {
    first: i16,
    last: i16,
}

impl Versions {
    const NONE: Self = Self { first: 1, last: 0 };

    #[inline]
    pub(super) const fn has(self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) versions: Versions,
    pub(super) nullable: Versions,
    /// Meaningful in the versions where it is tagged.
    pub(super) tag: u32,
    pub(super) tagged: Versions,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// So many bytes.
    Fixed(u8),
    String,
    Bytes,
    Records,
    Array(&'static Kind),
    Struct(&'static [Field]),
}

pub(super) const fn field(name: &'static str, kind: Kind, first: i16, last: i16) -> Field {
    Field { name, kind, versions: Versions { first, last }, nullable: Versions::NONE, tag: 0, tagged: Versions::NONE }
}

impl Field {
    pub(super) const fn nullable(self, first: i16, last: i16) -> Self {
        Self { nullable: Versions { first, last }, ..self }
    }

    pub(super) const fn tagged(self, tag: u32, first: i16, last: i16) -> Self {
        Self { tag, tagged: Versions { first, last }, ..self }
    }

    /// Whether it stands in its place, rather than among the tagged fields or not at all.
    #[inline]
    pub(super) const fn is_inline(&self, version: i16) -> bool {
        self.versions.has(version) && !self.tagged.has(version)
    }
}

/// Requests or responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client.
    Request,
    /// From a node.
    Response,
}

impl Direction {
    fn table(self) -> &'static [Message] {
        match self {
            Self::Request => REQUESTS,
            Self::Response => RESPONSES,
        }
    }

    fn max_elements(self) -> usize {
        match self {
            Self::Request => MAX_REQUEST_ELEMENTS,
            Self::Response => MAX_RESPONSE_ELEMENTS,
        }
    }
}

/// The shape of a message, if we know it in this version.
pub(super) fn find(direction: Direction, api_key: i16, version: i16) -> Option<&'static Message> {
    let table = direction.table();
    let index = table.binary_search_by_key(&api_key, |message| message.api_key).ok()?;
    table.get(index).filter(|message| message.min_version <= version && version <= message.max_version)
}

impl Message {
    #[inline]
    pub(super) fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_since
    }
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It ends inside a value.
    Truncated,
    /// A length or count that is negative and does not mean null.
    Negative,
    /// Null where the version knows no null.
    UnexpectedNull,
    /// A length beyond the end of the frame.
    Length {
        /// Bytes declared.
        declared: u64,
        /// Bytes there.
        remaining: usize,
    },
    /// More elements than the rest of the frame can hold.
    Count {
        /// Elements declared.
        declared: u64,
        /// Bytes there.
        remaining: usize,
    },
    /// More elements than [`MAX_REQUEST_ELEMENTS`] or [`MAX_RESPONSE_ELEMENTS`].
    TooManyElements,
    /// More tagged fields than [`MAX_TAGGED_FIELDS`].
    TooManyTaggedFields,
    /// A varint of more than 32 bits.
    Varint,
    /// Neither a struct nor null.
    Presence,
    /// A tagged field whose content is not as long as it says.
    TagLength,
    /// Deeper than [`MAX_NESTING`].
    Nesting,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the frame ends inside it"),
            Self::Negative => f.write_str("a negative length"),
            Self::UnexpectedNull => f.write_str("null, which this version does not allow"),
            Self::Length { declared, remaining } => write!(f, "{declared} bytes declared, {remaining} there"),
            Self::Count { declared, remaining } => write!(f, "{declared} elements declared, {remaining} bytes there"),
            Self::TooManyElements => f.write_str("more array elements than allowed in one frame"),
            Self::TooManyTaggedFields => f.write_str("more tagged fields than allowed in one frame"),
            Self::Varint => f.write_str("a varint of more than 32 bits"),
            Self::Presence => f.write_str("neither a struct nor null"),
            Self::TagLength => f.write_str("a tagged field not as long as it says"),
            Self::Nesting => f.write_str("nested too deeply"),
        }
    }
}

/// Where and why a walk stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} v{version}: {path} at byte {at}: {problem}")]
pub struct Malformed {
    /// Which message.
    pub message: &'static str,
    /// Its version.
    pub version: i16,
    /// Which field, such as `topic_data[3].partition_data[0].records`.
    pub path: String,
    /// Position in the body, after the header.
    pub at: usize,
    /// What is wrong.
    pub problem: Problem,
}

/// Checks the body of a message; returns how many bytes it takes. More may follow, as Kafka allows.
pub(super) fn walk(
    direction: Direction,
    message: &'static Message,
    version: i16,
    body: &[u8],
) -> Result<usize, Box<Malformed>> {
    let mut walker = Walker {
        bytes: body,
        at: 0,
        version,
        flexible: message.is_flexible(version),
        elements: direction.max_elements(),
        tags: MAX_TAGGED_FIELDS,
    };
    match walker.fields(message.fields, MAX_NESTING) {
        Ok(()) => Ok(walker.at),
        Err(mut fault) => {
            fault.path.reverse();
            let path = fault.path.concat();
            let path = path.trim_start_matches('.').to_owned();
            Err(Box::new(Malformed { message: message.name, version, path, at: walker.at, problem: fault.problem }))
        }
    }
}

/// A problem on its way up; the path grows as it passes.
struct Fault {
    problem: Problem,
    path: Vec<String>,
}

impl From<Problem> for Box<Fault> {
    #[cold]
    fn from(problem: Problem) -> Self {
        Self::new(Fault { problem, path: Vec::new() })
    }
}

type Walk<T> = Result<T, Box<Fault>>;

#[cold]
fn within(mut fault: Box<Fault>, place: String) -> Box<Fault> {
    fault.path.push(place);
    fault
}

struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
    version: i16,
    flexible: bool,
    /// Array elements that may still come.
    elements: usize,
    /// Tagged fields that may still come.
    tags: usize,
}

impl Walker<'_> {
    #[inline]
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[inline]
    fn skip(&mut self, len: usize) -> Result<(), Problem> {
        if len > self.remaining() {
            return Err(Problem::Truncated);
        }
        self.at += len;
        Ok(())
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let value = rest.first_chunk::<N>().ok_or(Problem::Truncated)?;
        self.at += N;
        Ok(*value)
    }

    #[inline]
    fn uvarint(&mut self) -> Result<u32, Problem> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array::<1>()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| Problem::Varint);
            }
        }
        Err(Problem::Varint)
    }

    /// A length or count; `None` is null.
    #[inline]
    fn length(&mut self, short: bool) -> Result<Option<u32>, Problem> {
        let length = if self.flexible {
            return Ok(self.uvarint()?.checked_sub(1));
        } else if short {
            i32::from(i16::from_be_bytes(self.array()?))
        } else {
            i32::from_be_bytes(self.array()?)
        };
        match length {
            -1 => Ok(None),
            length => u32::try_from(length).map(Some).map_err(|_| Problem::Negative),
        }
    }

    fn fields(&mut self, fields: &'static [Field], depth: usize) -> Walk<()> {
        let depth = depth.checked_sub(1).ok_or(Problem::Nesting)?;
        for field in fields {
            if field.is_inline(self.version) {
                self.value(&field.kind, field.nullable.has(self.version), depth)
                    .map_err(|fault| within(fault, format!(".{}", field.name)))?;
            }
        }
        if self.flexible {
            self.tagged(fields, depth)?;
        }
        Ok(())
    }

    fn tagged(&mut self, fields: &'static [Field], depth: usize) -> Walk<()> {
        let count = self.uvarint()?;
        if count == 0 {
            return Ok(());
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.tags = self.tags.checked_sub(count).ok_or(Problem::TooManyTaggedFields)?;
        for _ in 0..count {
            let tag = self.uvarint()?;
            self.tag(fields, tag, depth).map_err(|fault| within(fault, format!(".tag {tag}")))?;
        }
        Ok(())
    }

    fn tag(&mut self, fields: &'static [Field], tag: u32, depth: usize) -> Walk<()> {
        let declared = self.uvarint()?;
        let remaining = self.remaining();
        let length = usize::try_from(declared).unwrap_or(usize::MAX);
        if length > remaining {
            return Err(Problem::Length { declared: declared.into(), remaining }.into());
        }
        let end = self.at + length;
        let known = fields.iter().find(|field| field.tag == tag && field.tagged.has(self.version));
        if let Some(field) = known {
            self.value(&field.kind, field.nullable.has(self.version), depth)
                .map_err(|fault| within(fault, format!(".{}", field.name)))?;
            if self.at != end {
                return Err(Problem::TagLength.into());
            }
        }
        self.at = end;
        Ok(())
    }

    fn value(&mut self, kind: &'static Kind, nullable: bool, depth: usize) -> Walk<()> {
        match kind {
            Kind::Fixed(len) => Ok(self.skip(usize::from(*len))?),
            Kind::String => Ok(self.blob(true, nullable)?),
            Kind::Bytes | Kind::Records => Ok(self.blob(false, nullable)?),
            Kind::Array(element) => self.elements(element, nullable, depth),
            Kind::Struct(fields) => {
                if nullable && !self.is_present()? {
                    return Ok(());
                }
                self.fields(fields, depth)
            }
        }
    }

    fn is_present(&mut self) -> Result<bool, Problem> {
        match self.array::<1>()?.map(u8::cast_signed) {
            [1] => Ok(true),
            [-1] => Ok(false),
            _ => Err(Problem::Presence),
        }
    }

    #[inline]
    fn blob(&mut self, short: bool, nullable: bool) -> Result<(), Problem> {
        let Some(declared) = self.length(short)? else {
            return if nullable { Ok(()) } else { Err(Problem::UnexpectedNull) };
        };
        let remaining = self.remaining();
        match usize::try_from(declared) {
            Ok(length) if length <= remaining => {
                self.at += length;
                Ok(())
            }
            _ => Err(Problem::Length { declared: declared.into(), remaining }),
        }
    }

    fn elements(&mut self, element: &'static Kind, nullable: bool, depth: usize) -> Walk<()> {
        let depth = depth.checked_sub(1).ok_or(Problem::Nesting)?;
        let Some(declared) = self.length(false)? else {
            return if nullable { Ok(()) } else { Err(Problem::UnexpectedNull.into()) };
        };
        let count = usize::try_from(declared).unwrap_or(usize::MAX);
        let least = count.checked_mul(self.least(element));
        if least.is_none_or(|least| least > self.remaining()) {
            return Err(Problem::Count { declared: declared.into(), remaining: self.remaining() }.into());
        }
        self.elements = self.elements.checked_sub(count).ok_or(Problem::TooManyElements)?;
        if let Kind::Fixed(len) = element {
            return Ok(self.skip(count * usize::from(*len))?);
        }
        for index in 0..count {
            self.value(element, false, depth).map_err(|fault| within(fault, format!("[{index}]")))?;
        }
        Ok(())
    }

    /// Fewest bytes that a value takes in this version.
    fn least(&self, kind: &Kind) -> usize {
        match kind {
            Kind::Fixed(len) => usize::from(*len),
            Kind::String if !self.flexible => 2,
            Kind::Bytes | Kind::Records | Kind::Array(_) if !self.flexible => 4,
            Kind::String | Kind::Bytes | Kind::Records | Kind::Array(_) => 1,
            Kind::Struct(fields) => self.least_of(fields),
        }
    }

    fn least_of(&self, fields: &[Field]) -> usize {
        let inline = fields.iter().filter(|field| field.is_inline(self.version));
        let sum: usize = inline
            .map(|field| match field.kind {
                // Null takes one byte.
                Kind::Struct(_) if field.nullable.has(self.version) => 1,
                _ => self.least(&field.kind),
            })
            .sum();
        sum + usize::from(self.flexible)
    }
}
