//! What the demo sends: lines of a file, of the machine's own logs, or generated order events.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

/// Most bytes of input that are held; what lies beyond is not used, which the report says.
pub(crate) const INPUT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Longest line that is sent whole; longer ones are cut.
pub(crate) const LINE_BYTES_MAX: usize = 256 * 1024;
/// Fewer lines than this in the machine's logs are not worth sending.
const LOG_LINES_MIN: usize = 200;
/// Files of the machine's logs that are looked at.
const LOG_FILES_MAX: usize = 200;
/// How deep directories are looked into.
const LOG_DEPTH_MAX: usize = 3;
/// How much of a file tells whether it is text.
const SAMPLE_BYTES: usize = 8 * 1024;
/// Generated events that differ; more are repeats.
const ORDER_EVENTS: usize = 50_000;
/// Generated orders.
const ORDERS: u64 = 5_000;

/// Lines to send; repeated when more are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// Where they are from, for people.
    pub(crate) origin: String,
    lines: Vec<Bytes>,
}

impl Input {
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The line at this position, counting on after the end.
    pub(crate) fn line(&self, n: u64) -> Bytes {
        let count = self.lines.len().max(1) as u64;
        let at = usize::try_from(n % count).unwrap_or(0);
        self.lines.get(at).cloned().unwrap_or_default()
    }

    /// The given file; without one, the machine's logs, or else generated events.
    ///
    /// # Errors
    /// When a given file can't be read or holds no line.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self> {
        match file {
            Some(path) => Self::file(path),
            None => Ok(Self::machine_logs(Path::new("/var/log")).unwrap_or_else(Self::orders)),
        }
    }

    fn file(path: &Path) -> Result<Self> {
        let (text, whole) = read(path, INPUT_BYTES_MAX).with_context(|| format!("can't read {}", path.display()))?;
        let lines = split(&text);
        ensure!(!lines.is_empty(), "{} holds no line; name a file with text", path.display());
        let cut = if whole { "" } else { " (its first 256 MiB)" };
        Ok(Self { origin: format!("{}{cut}", path.display()), lines })
    }

    fn machine_logs(directory: &Path) -> Option<Self> {
        let mut files = Vec::new();
        collect(directory, 0, &mut files);
        files.sort();
        let (mut lines, mut left, mut used) = (Vec::new(), INPUT_BYTES_MAX, 0);
        for path in files {
            let Ok((text, _)) = read(&path, left) else { continue };
            let found = if is_text(&text) { split(&text) } else { Vec::new() };
            if !found.is_empty() {
                used += 1;
                left = left.saturating_sub(text.len() as u64);
                lines.extend(found);
            }
        }
        let origin = format!("{used} log files of this machine, in {}", directory.display());
        (lines.len() >= LOG_LINES_MIN).then_some(Self { origin, lines })
    }

    fn orders() -> Self {
        let lines = (0..ORDER_EVENTS as u64).map(order_event).collect();
        Self { origin: "generated order events (no readable logs in /var/log)".into(), lines }
    }
}

fn read(path: &Path, most: u64) -> Result<(Bytes, bool)> {
    let mut text = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut text)?;
    let whole = text.len() as u64 <= most;
    text.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    Ok((Bytes::from(text), whole))
}

/// Regular files below a directory, as many as are looked at. What can't be read is passed over.
fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if files.len() >= LOG_FILES_MAX {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            Ok(kind) if kind.is_dir() && depth < LOG_DEPTH_MAX => collect(&entry.path(), depth + 1, files),
            Ok(_) | Err(_) => {}
        }
    }
}

fn is_text(bytes: &[u8]) -> bool {
    let sample = bytes.get(..SAMPLE_BYTES).unwrap_or(bytes);
    let valid = match std::str::from_utf8(sample) {
        Ok(_) => true,
        // The sample may end inside a character.
        Err(error) => error.error_len().is_none(),
    };
    valid && !sample.contains(&0)
}

/// Lines without their ends, empty ones left out. They share the memory of the text.
fn split(text: &Bytes) -> Vec<Bytes> {
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines = lines.map(|line| line.get(..LINE_BYTES_MAX).unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(|line| text.slice_ref(line)).collect()
}

/// Events of orders, the same in each run.
fn order_event(n: u64) -> Bytes {
    const STEPS: [&str; 6] = ["placed", "paid", "packed", "shipped", "delivered", "reviewed"];
    // A multiplicative hash spreads the events of one order among those of others.
    let order = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % ORDERS;
    let step = STEPS[usize::try_from(n % 6).unwrap_or(0)];
    let cents = 100 + n.wrapping_mul(31) % 100_000;
    Bytes::from(format!("order-{order}: {{\"order\":{order},\"event\":\"{step}\",\"cents\":{cents},\"n\":{n}}}"))
}

/// The key of a line: what wrote it. The program name of a log line (`sshd` of `sshd[4711]:`), else its first word of letters.
pub(crate) fn key(line: &Bytes) -> Bytes {
    const WORDS: usize = 8;
    let words = || line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).take(WORDS);
    let named = words().find_map(program);
    let word = named.or_else(|| words().find(|word| is_word(word))).or_else(|| words().next());
    word.map_or_else(Bytes::new, |word| line.slice_ref(word))
}

fn program(word: &[u8]) -> Option<&[u8]> {
    let name = word.strip_suffix(b":")?;
    let name = name.split(|byte| *byte == b'[').next().filter(|name| !name.is_empty())?;
    name.iter().any(u8::is_ascii_alphabetic).then_some(name)
}

fn is_word(word: &[u8]) -> bool {
    word.len() >= 3 && word.iter().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'.' | b'_' | b'-' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_the_writer() {
        let table = [
            ("Jun 14 15:16:01 combo sshd(pam_unix)[19939]: authentication failure", "sshd(pam_unix)"),
            ("081109 203615 148 INFO dfs.DataNode$PacketResponder: terminating", "dfs.DataNode$PacketResponder"),
            ("2026-01-01 10:00:00 status installed libc6:amd64", "status"),
            ("12:00:00 13:00:00", "12:00:00"),
            ("order-17: {}", "order-17"),
            ("   ", ""),
        ];
        for (line, expected) in table {
            assert_eq!(key(&Bytes::from_static(line.as_bytes())), expected.as_bytes(), "{line}");
        }
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_at_the_bound() {
        let long = "x".repeat(LINE_BYTES_MAX + 10);
        let lines = split(&Bytes::from(format!("one\r\n\ntwo\n{long}")));
        let lengths: Vec<_> = lines.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [3, 3, LINE_BYTES_MAX]);
    }

    #[test]
    fn binary_files_are_not_logs() {
        assert!(is_text("grün".as_bytes()));
        assert!(is_text(&"grün".as_bytes()[..3]), "a sample that ends inside a character");
        assert!(!is_text(b"a\0b"));
        assert!(!is_text(b"\xff\xfe text"));
    }

    #[test]
    fn only_text_below_the_directory_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("deeper")).unwrap();
        fs::write(directory.path().join("deeper/a.log"), "line\n".repeat(LOG_LINES_MIN)).unwrap();
        fs::write(directory.path().join("wtmp"), [0_u8; 5000]).unwrap();
        let input = Input::machine_logs(directory.path()).unwrap();
        assert_eq!((input.len(), input.line(LOG_LINES_MIN as u64 + 3)), (LOG_LINES_MIN, Bytes::from_static(b"line")));
        assert!(input.origin.starts_with("1 log files"), "{}", input.origin);
        fs::write(directory.path().join("deeper/a.log"), "too few\n").unwrap();
        assert!(Input::machine_logs(directory.path()).is_none());
    }

    #[test]
    fn generated_events_have_many_keys() {
        let input = Input::orders();
        let keys: std::collections::HashSet<_> = (0..1000).map(|n| key(&input.line(n))).collect();
        assert!(keys.len() > 500, "{}", keys.len());
    }
}
