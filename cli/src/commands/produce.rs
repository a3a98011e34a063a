//! `wherry produce`: lines in, messages out.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use wherry_client::{Codec, Delivery, ProduceRecord, ProducerConfig};

use crate::connect::ClusterArgs;
use crate::exit;
use crate::output::{self, Output};
use crate::text;

/// Publish lines of standard input or a file, one message each
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  echo hello | wherry produce greetings
  wherry produce logs --file app.log --codec zstd
  printf 'alice:1\\nbob:2\\n' | wherry produce scores --key-separator :
  echo '{}' | wherry produce events --key alice --header content-type=application/json

Each message is on stable storage when it counts as produced.")]
pub(crate) struct ProduceArgs {
    /// The topic
    topic: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Read this file instead of standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// The key of every message
    #[arg(short, long, conflicts_with = "key_separator")]
    key: Option<String>,
    /// Each line is a key, this text, and the message
    #[arg(short = 'K', long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// A header of every message; may be given more than once
    #[arg(short = 'H', long = "header", value_parser = super::topic::setting, value_name = "NAME=VALUE")]
    headers: Vec<(String, String)>,
    /// The partition; chosen by key if absent
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Compression
    #[arg(short, long, value_enum, default_value_t = CodecArg::Lz4)]
    codec: CodecArg,
    /// Wait this long for more lines before a batch goes that is not full
    #[arg(long, value_parser = text::duration, default_value = "5ms")]
    linger: Duration,
    /// Largest message
    #[arg(long, value_parser = text::bytes, default_value = "1000000", value_name = "SIZE")]
    max_bytes: u64,
}

/// Compression of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CodecArg {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<CodecArg> for Codec {
    fn from(codec: CodecArg) -> Self {
        match codec {
            CodecArg::None => Self::None,
            CodecArg::Gzip => Self::Gzip,
            CodecArg::Snappy => Self::Snappy,
            CodecArg::Lz4 => Self::Lz4,
            CodecArg::Zstd => Self::Zstd,
        }
    }
}

/// Messages sent whose receipt is still awaited.
const RECEIPTS: usize = 64 * 1024;
/// What a record may be larger than its message.
const OVERHEAD_BYTES: usize = 64 * 1024;

pub(crate) async fn run(args: ProduceArgs, output: Output) -> Result<()> {
    let max_bytes = usize::try_from(args.max_bytes).context("--max-bytes")?;
    let defaults = ProducerConfig::default();
    let config = ProducerConfig {
        codec: args.codec.into(),
        linger: args.linger,
        delivery_timeout: args.cluster.timeout.max(args.linger * 2),
        max_record_bytes: max_bytes + OVERHEAD_BYTES,
        max_request_bytes: defaults.max_request_bytes.max(max_bytes + 2 * OVERHEAD_BYTES),
        max_buffer_bytes: defaults.max_buffer_bytes.max(2 * max_bytes),
        ..defaults
    };
    let mut input = open(args.file.as_ref()).await?;
    let producer = args.cluster.connect().await?.producer(config).await?;
    let (receipts, awaited) = mpsc::channel(RECEIPTS);
    let progress = progress();
    let counted = tokio::spawn(count(awaited, progress.clone()));
    let template = template(&args);
    let mut line_number = 0_u64;
    while let Some(line) = next_line(&mut input, max_bytes).await? {
        line_number += 1;
        let record = record(&template, line, args.key_separator.as_deref())
            .map_err(|says| exit::usage(format!("line {line_number}: {says}")))?;
        let delivery = producer.send(record).await.with_context(|| format!("line {line_number}"))?;
        if receipts.send(delivery).await.is_err() {
            // A receipt was an error: `counted` has it.
            break;
        }
    }
    drop(receipts);
    let produced = counted.await??;
    producer.close().await?;
    progress.finish_and_clear();
    match output {
        Output::Json => output::json(&json!({"topic": args.topic, "produced": produced})),
        Output::Table => output::line(format!("Produced {} messages to {}.", text::shown_count(produced), args.topic)),
    }
}

async fn open(file: Option<&PathBuf>) -> Result<Pin<Box<dyn AsyncBufRead + Send>>> {
    let input: Pin<Box<dyn AsyncRead + Send>> = match file {
        Some(path) => {
            Box::pin(tokio::fs::File::open(path).await.with_context(|| format!("can't read {}", path.display()))?)
        }
        None => Box::pin(tokio::io::stdin()),
    };
    Ok(Box::pin(BufReader::with_capacity(64 * 1024, input)))
}

/// The next line without its end; `None` at the end of the input. Never holds more than `max_bytes`.
async fn next_line(input: &mut Pin<Box<dyn AsyncBufRead + Send>>, max_bytes: usize) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let bound = u64::try_from(max_bytes)?.saturating_add(2);
    input.take(bound).read_until(b'\n', &mut line).await.context("can't read the input")?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.len() > max_bytes {
        return Err(exit::usage(format!("a line has more than {max_bytes} bytes; raise --max-bytes")));
    }
    Ok(Some(line))
}

fn template(args: &ProduceArgs) -> ProduceRecord {
    ProduceRecord {
        topic: Arc::from(args.topic.as_str()),
        partition: args.partition,
        key: args.key.clone().map(Bytes::from),
        value: None,
        headers: args.headers.iter().map(|(name, value)| (name.clone(), Bytes::from(value.clone()))).collect(),
        timestamp_ms: None,
    }
}

fn record(template: &ProduceRecord, line: Vec<u8>, separator: Option<&str>) -> Result<ProduceRecord, String> {
    let line = Bytes::from(line);
    let mut record = template.clone();
    let Some(separator) = separator.filter(|separator| !separator.is_empty()) else {
        record.value = Some(line);
        return Ok(record);
    };
    let at = line.windows(separator.len()).position(|window| window == separator.as_bytes());
    let at = at.ok_or_else(|| format!("has no {separator:?}; every line must be KEY{separator}MESSAGE"))?;
    record.key = Some(line.slice(..at));
    record.value = Some(line.slice(at + separator.len()..));
    Ok(record)
}

async fn count(mut awaited: mpsc::Receiver<Delivery>, progress: ProgressBar) -> Result<u64> {
    let mut count = 0;
    while let Some(delivery) = awaited.recv().await {
        delivery.await.with_context(|| format!("after {count} messages"))?;
        count += 1;
        progress.set_position(count);
    }
    Ok(count)
}

/// Drawn only where standard error is a terminal.
fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {human_pos} messages  {elapsed}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &'static [u8]) -> Pin<Box<dyn AsyncBufRead + Send>> {
        Box::pin(text)
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        let mut lines = input(b"one\n\ntwo");
        assert_eq!(next_line(&mut lines, 3).await.unwrap(), Some(b"one".to_vec()));
        assert_eq!(next_line(&mut lines, 3).await.unwrap(), Some(Vec::new()));
        assert_eq!(next_line(&mut lines, 3).await.unwrap(), Some(b"two".to_vec()));
        assert_eq!(next_line(&mut lines, 3).await.unwrap(), None);
        assert!(next_line(&mut input(b"four\n"), 3).await.is_err());
    }

    #[test]
    fn keys_are_split_off() {
        let template = ProduceRecord { value: None, ..ProduceRecord::new("t", "") };
        let keyed = record(&template, b"alice::1::2".to_vec(), Some("::")).unwrap();
        assert_eq!((keyed.key.as_deref(), keyed.value.as_deref()), (Some(&b"alice"[..]), Some(&b"1::2"[..])));
        assert!(record(&template, b"no separator".to_vec(), Some("::")).is_err());
        assert_eq!(record(&template, b"x".to_vec(), None).unwrap().key, None);
    }
}
