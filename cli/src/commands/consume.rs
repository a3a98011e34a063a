//! `wherry consume`: messages out, as lines, by a format, or as JSON.

use std::collections::HashMap;
use std::io::{self, Write};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use wherry_client::admin::OffsetSpec;
use wherry_client::{Client, ConsumedRecord, Consumer, ConsumerConfig, Isolation, OffsetReset, TopicPartition};

use crate::commands::topic::describe;
use crate::connect::ClusterArgs;
use crate::output::Output;
use crate::{exit, text};

/// Read messages, as a member of a group or from a position
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry consume orders                                what comes from now on
  wherry consume orders --from earliest --until-end    everything there is, then stop
  wherry consume orders --from 15m                     since a quarter of an hour ago
  wherry consume orders --partition 0 --from 4711      from an offset
  wherry consume orders payments --group audit         as a member of a group: acknowledged once printed
  wherry consume orders --format '%p/%o %k: %v'        partition, offset, key, message
  wherry consume orders --output json | jq .key        one JSON object per line
  wherry consume orders --isolation committed          of transactions, only what was committed

In a format: %t topic, %p partition, %o offset, %T time, %k key, %v message, %h headers, %% a percent sign,
\\n and \\t. Bytes that are not text are escaped; in JSON they are given as valueBase64 and keyBase64.")]
pub(crate) struct ConsumeArgs {
    /// The topics
    #[arg(required = true)]
    topics: Vec<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Be a member of this group; positions are kept
    #[arg(short, long)]
    group: Option<String>,
    /// earliest, latest, an offset, or a time; a group: only where it has no position, earliest or latest
    #[arg(long, value_name = "POSITION")]
    from: Option<String>,
    /// Only this partition
    #[arg(short, long, conflicts_with = "group", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "COUNT")]
    max: Option<u64>,
    /// Stop at what was the end when the command began
    #[arg(long, conflicts_with = "group")]
    until_end: bool,
    /// Of transactions: everything, or only what was committed
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    isolation: See,
    /// How a message is printed
    #[arg(short, long, default_value = "%v\\n")]
    format: String,
}

/// What is shown of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum See {
    /// Messages as soon as they are on disk, also those of transactions that are open or aborted
    #[default]
    #[value(alias = "read_uncommitted")]
    Uncommitted,
    /// Messages of transactions when they are committed; nothing that comes after an open one before that
    #[value(alias = "read_committed")]
    Committed,
}

impl From<See> for Isolation {
    fn from(see: See) -> Self {
        match see {
            See::Uncommitted => Self::ReadUncommitted,
            See::Committed => Self::ReadCommitted,
        }
    }
}

/// Most messages taken at once.
const POLL_MESSAGES: usize = 1000;

pub(crate) async fn run(args: ConsumeArgs, output: Output) -> Result<()> {
    let format = match output {
        Output::Json => None,
        Output::Table => Some(parse(&args.format)?),
    };
    let client = args.cluster.connect().await?;
    let (consumer, ends) = match &args.group {
        Some(group) => (joined(&client, group, &args).await?, None),
        None => positioned(&client, &args).await?,
    };
    let mut reading =
        Reading { consumer, ends, left: args.max.unwrap_or(u64::MAX), format, grouped: args.group.is_some() };
    let outcome = tokio::select! {
        outcome = reading.read() => outcome,
        stopped = tokio::signal::ctrl_c() => stopped.context("can't wait for Ctrl-C"),
    };
    // Leaves the group at once: its partitions need not wait for the end of a session.
    let closed = reading.consumer.close().await;
    outcome?;
    Ok(closed?)
}

async fn joined(client: &Client, group: &str, args: &ConsumeArgs) -> Result<Consumer> {
    let auto_offset_reset = match args.from.as_deref() {
        None | Some("earliest") => OffsetReset::Earliest,
        Some("latest") => OffsetReset::Latest,
        Some(other) => {
            return Err(exit::usage(format!(
                "a group begins at earliest or latest, not {other:?}; to move one, use `wherry group reset`"
            )));
        }
    };
    let isolation = args.isolation.into();
    let config = ConsumerConfig { auto_offset_reset, isolation, ..ConsumerConfig::in_group(group) };
    let mut consumer = client.consumer(config).await?;
    let topics: Vec<_> = args.topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).await?;
    Ok(consumer)
}

type Ends = HashMap<TopicPartition, i64>;

/// A consumer at its starting positions, and the ends to stop at.
async fn positioned(client: &Client, args: &ConsumeArgs) -> Result<(Consumer, Option<Ends>)> {
    let admin = client.admin();
    let mut places = Vec::new();
    for topic in &args.topics {
        places.extend(describe::places(&admin, topic).await.with_context(|| format!("can't read topic {topic}"))?);
    }
    if let Some(partition) = args.partition {
        places.retain(|place| place.partition == partition);
        if places.is_empty() {
            return Err(exit::usage(format!(
                "no topic has a partition {partition}; `wherry topic describe` lists them"
            )));
        }
    }
    let isolation = args.isolation.into();
    let latest = describe::offsets_as(&admin, &places, OffsetSpec::Latest, isolation).await?;
    let starts = match args.from.as_deref() {
        None | Some("latest") => latest.clone(),
        Some("earliest") => describe::offsets(&admin, &places, OffsetSpec::Earliest).await?,
        Some(text) => match offset(text) {
            Some(offset) => describe::checked_offset(&admin, &places, offset).await?,
            None => at_time(&admin, &places, &latest, text, isolation).await?,
        },
    };
    // Every position is set below; the policy is for what retention takes in the meantime.
    let auto_offset_reset = OffsetReset::Earliest;
    let config = ConsumerConfig { auto_offset_reset, isolation, ..ConsumerConfig::default() };
    let mut consumer = client.consumer(config).await?;
    consumer.assign(&places).await?;
    for (place, start) in places.iter().zip(&starts) {
        consumer.seek(place, *start)?;
    }
    Ok((consumer, args.until_end.then(|| remaining(&places, &starts, &latest))))
}

/// A bare number below this is an offset; larger ones are milliseconds since the epoch (from 2001 on).
const OFFSET_MAX: i64 = 1_000_000_000_000;

fn offset(text: &str) -> Option<i64> {
    text.parse().ok().filter(|offset| (0..OFFSET_MAX).contains(offset))
}

async fn at_time(
    admin: &wherry_client::Admin,
    places: &[TopicPartition],
    latest: &[i64],
    time: &str,
    isolation: Isolation,
) -> Result<Vec<i64>> {
    let moment = text::moment(time).map_err(exit::usage)?;
    let found = describe::offsets_as(admin, places, OffsetSpec::Timestamp(moment), isolation).await?;
    // No message is that young: begin at the end.
    Ok(found.into_iter().zip(latest).map(|(found, end)| if found < 0 { *end } else { found }).collect())
}

fn remaining(places: &[TopicPartition], starts: &[i64], latest: &[i64]) -> Ends {
    let all = places.iter().zip(starts).zip(latest);
    all.filter(|((_, start), end)| start < end).map(|((place, _), end)| (place.clone(), *end)).collect()
}

struct Reading {
    consumer: Consumer,
    /// Partitions that are not at their end yet, with that end; `None`: read on for ever.
    ends: Option<Ends>,
    left: u64,
    format: Option<Vec<Piece>>,
    grouped: bool,
}

impl Reading {
    async fn read(&mut self) -> Result<()> {
        while self.left > 0 && self.ends.as_ref().is_none_or(|ends| !ends.is_empty()) {
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(POLL_MESSAGES);
            let records = self.consumer.poll(most).await?;
            self.write(&records)?;
            self.acknowledge(&records).await?;
            self.reached();
        }
        Ok(())
    }

    fn write(&mut self, records: &[ConsumedRecord]) -> Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for record in records {
            if self.is_beyond(record) {
                continue;
            }
            self.left -= 1;
            match &self.format {
                Some(pieces) => out.write_all(formatted(pieces, record).as_bytes())?,
                None => writeln!(out, "{}", as_json(record))?,
            }
        }
        Ok(out.flush()?)
    }

    fn is_beyond(&self, record: &ConsumedRecord) -> bool {
        let Some(ends) = &self.ends else { return false };
        let place = TopicPartition::new(record.topic.clone(), record.partition);
        ends.get(&place).is_none_or(|end| record.offset >= *end)
    }

    /// What was printed is done; durably, before more is printed.
    async fn acknowledge(&self, records: &[ConsumedRecord]) -> Result<()> {
        if !self.grouped {
            return Ok(());
        }
        let mut next = HashMap::new();
        for record in records {
            next.insert(TopicPartition::new(record.topic.clone(), record.partition), record.offset + 1);
        }
        Ok(self.consumer.commit(&next.into_iter().collect::<Vec<_>>()).await?)
    }

    /// Forgets partitions whose end was reached. By position, not by record: the last offsets may hold no message.
    fn reached(&mut self) {
        let consumer = &self.consumer;
        if let Some(ends) = &mut self.ends {
            ends.retain(|place, end| consumer.position(place).is_none_or(|position| position < *end));
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Topic,
    Partition,
    Offset,
    Time,
    Key,
    Value,
    Headers,
}

fn parse(format: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        let piece = match (c, c == '%' || c == '\\') {
            (_, false) => {
                text.push(c);
                continue;
            }
            ('%', true) => match chars.next() {
                Some('t') => Piece::Topic,
                Some('p') => Piece::Partition,
                Some('o') => Piece::Offset,
                Some('T') => Piece::Time,
                Some('k') => Piece::Key,
                Some('v') => Piece::Value,
                Some('h') => Piece::Headers,
                Some('%') => {
                    text.push('%');
                    continue;
                }
                other => return Err(bad_format('%', other)),
            },
            (_, true) => {
                match chars.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('\\') => text.push('\\'),
                    other => return Err(bad_format('\\', other)),
                }
                continue;
            }
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(piece);
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

fn bad_format(lead: char, found: Option<char>) -> anyhow::Error {
    let found = found.map(String::from).unwrap_or_default();
    exit::usage(format!("{lead}{found} has no meaning in --format; use %t %p %o %T %k %v %h %% \\n \\t \\\\"))
}

fn formatted(pieces: &[Piece], record: &ConsumedRecord) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Topic => record.topic.to_string(),
        Piece::Partition => record.partition.to_string(),
        Piece::Offset => record.offset.to_string(),
        Piece::Time => text::shown_moment(record.timestamp_ms),
        Piece::Key => record.key.as_deref().map(text::shown).unwrap_or_default(),
        Piece::Value => record.value.as_deref().map(text::shown).unwrap_or_default(),
        Piece::Headers => headers(record),
    };
    pieces.iter().map(piece).collect()
}

fn headers(record: &ConsumedRecord) -> String {
    let header = |(name, value): &wherry_client::Header| {
        format!("{name}={}", value.as_deref().map(text::shown).unwrap_or_default())
    };
    record.headers.iter().map(header).collect::<Vec<_>>().join(",")
}

fn as_json(record: &ConsumedRecord) -> Value {
    let mut fields = Map::new();
    fields.insert("topic".into(), json!(&*record.topic));
    fields.insert("partition".into(), json!(record.partition));
    fields.insert("offset".into(), json!(record.offset));
    fields.insert("timestampMs".into(), json!(record.timestamp_ms));
    bytes_field(&mut fields, "key", record.key.as_deref());
    bytes_field(&mut fields, "value", record.value.as_deref());
    let headers = record.headers.iter().map(|(name, value)| {
        let mut header = Map::new();
        header.insert("name".into(), json!(&**name));
        bytes_field(&mut header, "value", value.as_deref());
        Value::Object(header)
    });
    fields.insert("headers".into(), headers.collect());
    Value::Object(fields)
}

/// Text as it is; other bytes as base64 under a name that says so.
fn bytes_field(fields: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => fields.insert(name.into(), Value::Null),
        Some((_, Ok(text))) => fields.insert(name.into(), json!(text)),
        Some((bytes, Err(_))) => fields.insert(format!("{name}Base64"), json!(STANDARD.encode(bytes))),
    };
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record() -> ConsumedRecord {
        ConsumedRecord {
            topic: "orders".into(),
            partition: 3,
            offset: 17,
            leader_epoch: 0,
            timestamp_ms: 1_700_000_000_000,
            generation: -1,
            key: Some(Bytes::from_static(b"alice")),
            value: Some(Bytes::from_static(b"\xff\x00")),
            headers: vec![("a".into(), Some(Bytes::from_static(b"1"))), ("b".into(), None)],
        }
    }

    #[test]
    fn formats() {
        let shown = |format| formatted(&parse(format).unwrap(), &record());
        assert_eq!(shown("%t-%p@%o %k\\t%h%%\\n"), "orders-3@17 alice\ta=1,b=%\n");
        assert_eq!(shown("%v"), "\\xff\\x00");
        assert_eq!(shown("%T"), "2023-11-14T22:13:20.000Z");
        for bad in ["%", "%q", "\\", "\\q"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_keeps_every_byte() {
        let value = as_json(&record());
        assert_eq!(value["key"], "alice");
        assert_eq!(value["valueBase64"], "/wA=");
        assert!(value.get("value").is_none());
        assert_eq!(value["headers"][1]["value"], Value::Null);
    }

    #[test]
    fn large_numbers_are_times() {
        assert_eq!(offset("4711"), Some(4711));
        assert_eq!(offset("1700000000000"), None);
        assert_eq!(offset("-1"), None);
    }

    #[test]
    fn only_partitions_with_something_left_are_waited_for() {
        let places: Vec<_> = (0..3).map(|p| TopicPartition::new("t", p)).collect();
        let ends = remaining(&places, &[0, 5, 7], &[5, 5, 9]);
        assert_eq!(ends.len(), 2);
        assert_eq!(ends.get(&places[2]), Some(&9));
    }
}
