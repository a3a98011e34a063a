//! ShareFetch and ShareAcknowledge in version 2, which the kafka-protocol crate does not know (KIP-1206, KIP-1222): its
//! messages of version 1, with a few bytes more in between.
//!
//! ```text
//! ShareFetchRequest          group, member, 6 x i32 │ acquire mode i8, is renew bool │ topics ...
//! ShareAcknowledgeRequest    group, member, i32     │ is renew bool                  │ topics ...
//! ShareAcknowledgeResponse   i32, i16, text         │ lock timeout i32               │ responses ...
//! ShareFetchResponse         the same as version 1
//! ```
//! Source: the message definitions of Apache Kafka 4.3. What is decoded here was walked before, as everything.

use std::ops::{Deref, DerefMut};

use anyhow::{Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages as v1;
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, VersionRange};

const V1: i16 = 1;
const V2: i16 = 2;
const VERSIONS: VersionRange = VersionRange { min: V1, max: V2 };

/// Defines a message as one of version 1 with more beside it.
macro_rules! extended {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct $name {
            /// What both versions have.
            pub common: v1::$name,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl From<v1::$name> for $name {
            fn from(common: v1::$name) -> Self {
                Self { common, $($field: Default::default(),)* }
            }
        }

        impl Deref for $name {
            type Target = v1::$name;

            fn deref(&self) -> &v1::$name {
                &self.common
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut v1::$name {
                &mut self.common
            }
        }

        impl Message for $name {
            const VERSIONS: VersionRange = VERSIONS;
            const DEPRECATED_VERSIONS: Option<VersionRange> = None;
        }

        impl HeaderVersion for $name {
            fn header_version(_: i16) -> i16 {
                v1::$name::header_version(V1)
            }
        }

        impl Encodable for $name {
            fn encode<B: ByteBufMut>(&self, buf: &mut B, version: i16) -> Result<()> {
                if version < V2 {
                    return self.common.encode(buf, version);
                }
                let mut whole = BytesMut::new();
                self.common.encode(&mut whole, V1)?;
                let mut more = BytesMut::new();
                self.put_more(&mut more);
                let rest = whole.split_off(Self::place(&whole)?);
                for part in [whole, more, rest] {
                    buf.put_slice(&part);
                }
                Ok(())
            }

            fn compute_size(&self, version: i16) -> Result<usize> {
                let more = if version < V2 { 0 } else { Self::MORE };
                Ok(self.common.compute_size(version.min(V1))? + more)
            }
        }

        impl Decodable for $name {
            fn decode<B: ByteBuf>(buf: &mut B, version: i16) -> Result<Self> {
                if version < V2 {
                    return Ok(v1::$name::decode(buf, version)?.into());
                }
                let whole: Bytes = buf.copy_to_bytes(buf.remaining());
                let at = Self::place(&whole)?;
                if whole.len() < at + Self::MORE {
                    bail!("it ends early");
                }
                let mut plain = BytesMut::with_capacity(whole.len());
                plain.extend_from_slice(&whole[..at]);
                plain.extend_from_slice(&whole[at + Self::MORE..]);
                let mut message = Self::from(v1::$name::decode(&mut plain.freeze(), V1)?);
                message.take_more(&mut whole.slice(at..at + Self::MORE));
                Ok(message)
            }
        }
    };
}

extended! {
    /// ShareFetchRequest v1-2.
    ShareFetchRequest {
        /// 0: whole batches of the log are acquired; 1: not more records than asked for (KIP-1206).
        share_acquire_mode: i8,
        /// Acknowledgements may ask for more time (KIP-1222); nothing is fetched then.
        is_renew_ack: bool,
    }
}

extended! {
    /// ShareAcknowledgeRequest v1-2.
    ShareAcknowledgeRequest {
        /// Acknowledgements may ask for more time (KIP-1222).
        is_renew_ack: bool,
    }
}

extended! {
    /// ShareAcknowledgeResponse v1-2.
    ShareAcknowledgeResponse {
        /// How long acquired records are locked, in milliseconds.
        acquisition_lock_timeout_ms: i32,
    }
}

extended! {
    /// ShareFetchResponse v1-2, which are the same.
    ShareFetchResponse {}
}

/// Where a message goes on after so many compact strings.
fn after_strings(bytes: &[u8], from: usize, strings: usize) -> Result<usize> {
    let mut at = from;
    for _ in 0..strings {
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let Some(byte) = bytes.get(at).filter(|_| shift < 32) else { bail!("it ends early") };
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        at = at.saturating_add(length.saturating_sub(1));
    }
    if at > bytes.len() {
        bail!("it ends early");
    }
    Ok(at)
}

impl ShareFetchRequest {
    const MORE: usize = 2;

    fn place(bytes: &[u8]) -> Result<usize> {
        Ok(after_strings(bytes, 0, 2)? + 6 * size_of::<i32>())
    }

    fn put_more(&self, out: &mut BytesMut) {
        out.put_i8(self.share_acquire_mode);
        out.put_u8(u8::from(self.is_renew_ack));
    }

    fn take_more(&mut self, more: &mut Bytes) {
        self.share_acquire_mode = more.get_i8();
        self.is_renew_ack = more.get_u8() != 0;
    }
}

impl ShareAcknowledgeRequest {
    const MORE: usize = 1;

    fn place(bytes: &[u8]) -> Result<usize> {
        Ok(after_strings(bytes, 0, 2)? + size_of::<i32>())
    }

    fn put_more(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.is_renew_ack));
    }

    fn take_more(&mut self, more: &mut Bytes) {
        self.is_renew_ack = more.get_u8() != 0;
    }
}

impl ShareAcknowledgeResponse {
    const MORE: usize = 4;

    fn place(bytes: &[u8]) -> Result<usize> {
        after_strings(bytes, size_of::<i32>() + size_of::<i16>(), 1)
    }

    fn put_more(&self, out: &mut BytesMut) {
        out.put_i32(self.acquisition_lock_timeout_ms);
    }

    fn take_more(&mut self, more: &mut Bytes) {
        self.acquisition_lock_timeout_ms = more.get_i32();
    }
}

#[expect(clippy::unused_self, reason = "the macro asks all of its messages the same")]
impl ShareFetchResponse {
    const MORE: usize = 0;

    fn place(_: &[u8]) -> Result<usize> {
        Ok(0)
    }

    fn put_more(&self, _: &mut BytesMut) {}

    fn take_more(&mut self, _: &mut Bytes) {}
}

impl Request for ShareFetchRequest {
    const KEY: i16 = v1::ShareFetchRequest::KEY;
    type Response = ShareFetchResponse;
}

impl Request for ShareAcknowledgeRequest {
    const KEY: i16 = v1::ShareAcknowledgeRequest::KEY;
    type Response = ShareAcknowledgeResponse;
}
