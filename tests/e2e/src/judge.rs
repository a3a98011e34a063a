//! INV-1 judged from outside: producers that go on through faults, and a model of the log that each reading extends.
//!
//! The payload of every message follows from its producer and sequence number, and sequence numbers go round robin
//! over the partitions; so for each producer and partition the next message is known. The judge sees a lost, an
//! invented, a doubled, a reordered or a changed record, a gap in offsets, and history that changed after it was read.
//! It must not know which faults happen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::clients::{kcat, python};
use crate::{Target, report, until};

/// How long a whole soak may take; producers are killed after that.
const SOAK: Duration = Duration::from_secs(6 * 3600);

/// One acknowledged message.
#[derive(Clone, Copy, Debug)]
struct Acked {
    producer: usize,
    sequence: u64,
    partition: usize,
    /// `None`: the client only learnt that the message is in the log, from a refusal of its repetition.
    offset: Option<usize>,
}

/// What the producers have said so far.
#[derive(Debug, Default)]
struct Said {
    acks: Vec<Acked>,
    /// When each was heard.
    times: Vec<Instant>,
    /// Messages sent, by producer, once it has ended.
    sent: Vec<Option<u64>>,
    failures: Vec<String>,
}

/// Producers under way.
#[derive(Debug)]
pub struct Load {
    said: Arc<Mutex<Said>>,
    threads: Vec<JoinHandle<()>>,
    pids: Vec<Pid>,
}

impl Load {
    /// Starts `producers` idempotent producers of at most `rate` messages a second each.
    pub fn start(target: &impl Target, topic: &str, partitions: usize, producers: usize, rate: u64) -> Result<Load> {
        let said = Arc::new(Mutex::new(Said { sent: vec![None; producers], ..Said::default() }));
        let (mut threads, mut pids) = (Vec::new(), Vec::new());
        for producer in 0..producers {
            let program = python("load.py")
                .typed(&format!("{} {topic} {partitions} {producer} {rate}", target.brokers()))
                .deadline(SOAK);
            let mut running = target.place(program).start()?;
            pids.push(running.pid());
            let said = Arc::clone(&said);
            threads.push(std::thread::spawn(move || {
                let outcome = loop {
                    match running.next_line() {
                        Ok(Some(line)) => match lock(&said).hear(producer, &line).with_context(|| line.clone()) {
                            Ok(()) => {}
                            Err(e) => break Err(e),
                        },
                        Ok(None) => break running.finish().map(|f| f.errors),
                        Err(e) => break Err(e),
                    }
                };
                let mut said = lock(&said);
                match outcome {
                    Ok(errors) if errors.is_empty() && said.sent[producer].is_some() => {}
                    Ok(errors) => said.failures.push(format!("producer {producer} ended: {errors}")),
                    Err(e) => said.failures.push(format!("producer {producer}: {e:#}")),
                }
            }));
        }
        Ok(Load { said, threads, pids })
    }

    /// Waits for `count` more acknowledgements than there are now.
    pub fn await_acks(&self, count: usize) -> Result<()> {
        let want = self.acked() + count;
        until("acknowledgements", || {
            let said = lock(&self.said);
            ensure!(said.failures.is_empty(), "{}", said.failures.join("\n"));
            Ok(said.acks.len() >= want)
        })
    }

    /// Acknowledgements so far.
    pub fn acked(&self) -> usize {
        lock(&self.said).acks.len()
    }

    /// A moment to measure from.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// The longest time since then in which a partition had no acknowledgement.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let (said, end) = (lock(&self.said), Instant::now());
        let mut last: HashMap<usize, Instant> = HashMap::new();
        let mut longest = Duration::ZERO;
        for (ack, at) in said.acks.iter().zip(&said.times).filter(|(_, at)| **at >= since) {
            let before = last.insert(ack.partition, *at).unwrap_or(since);
            longest = longest.max(*at - before);
        }
        last.values().fold(longest, |longest, at| longest.max(end - *at))
    }

    /// Lets the producers settle what they have sent, and end.
    pub fn finish(self) -> Result<Settled> {
        for pid in &self.pids {
            let _ = kill_process(*pid, Signal::TERM);
        }
        for thread in self.threads {
            ensure!(thread.join().is_ok(), "a listener died");
        }
        let said = std::mem::take(&mut *lock(&self.said));
        ensure!(said.failures.is_empty(), "{}", said.failures.join("\n"));
        let sent =
            said.sent.into_iter().collect::<Option<Vec<u64>>>().context("a producer did not say what it sent")?;
        Ok(Settled { acks: said.acks, sent })
    }
}

/// What the producers sent and were promised, all settled.
#[derive(Debug)]
pub struct Settled {
    acks: Vec<Acked>,
    sent: Vec<u64>,
}

impl Settled {
    /// Acknowledged messages of which the client did not learn the place.
    pub fn without_place(&self) -> usize {
        self.acks.iter().filter(|ack| ack.offset.is_none()).count()
    }

    /// Messages sent in all.
    pub fn total(&self) -> u64 {
        self.sent.iter().sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Said {
    fn hear(&mut self, producer: usize, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["sent", sent, "failed", failed] => {
                ensure!(failed == "0", "{failed} messages failed");
                self.sent[producer] = Some(sent.parse()?);
            }
            [sequence, partition, offset] => {
                self.acks.push(Acked {
                    producer,
                    sequence: sequence.parse()?,
                    partition: partition.parse()?,
                    offset: if offset == "None" { None } else { Some(offset.parse()?) },
                });
                self.times.push(Instant::now());
            }
            _ => bail!("not an acknowledgement: {line}"),
        }
        Ok(())
    }
}

/// The payload of a message (as `clients/load.py` makes it).
fn payload(producer: usize, sequence: u64) -> String {
    let number = producer as u64;
    let word = sequence
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(number.wrapping_mul(1_442_695_040_888_963_407))
        .wrapping_add(1);
    let words = usize::try_from(1 + (sequence * 7 + number) % 60).unwrap_or(1);
    format!("{producer}/{sequence}/{}", format!("{word:016x}").repeat(words))
}

/// A consumer that reads every partition from its beginning, all through the faults.
#[derive(Debug)]
pub struct Reader {
    seen: Arc<Mutex<Seen>>,
}

/// By partition and offset: producer and sequence number.
type Logs = Vec<Vec<(usize, u64)>>;

/// What a reader saw so far, or why it ended.
#[derive(Debug, Default)]
struct Seen {
    logs: Logs,
    /// How often the client library had to begin anew.
    anew: usize,
    failure: Option<String>,
}

impl Reader {
    /// Starts it; it ends with the test.
    pub fn start(target: &impl Target, topic: &str, partitions: usize) -> Result<Reader> {
        let program = python("follow.py").typed(&format!("{} {topic} {partitions}", target.brokers())).deadline(SOAK);
        let mut running = target.place(program).start()?;
        let seen = Arc::new(Mutex::new(Seen { logs: vec![Vec::new(); partitions], ..Seen::default() }));
        let weak = Arc::downgrade(&seen);
        std::thread::spawn(move || {
            loop {
                let line = running.line();
                let Some(seen) = weak.upgrade() else { return };
                let mut seen = lock(&seen);
                if let Err(e) = line.and_then(|line| seen.hear(&line)) {
                    seen.failure = Some(format!("{e:#}"));
                    return;
                }
            }
        });
        Ok(Reader { seen })
    }

    /// What it saw must be what the log holds: every record once and in order, and nothing that is not there any more.
    pub fn conclude(self, judge: &Judge) -> Result<()> {
        until("the consumer to read everything", || {
            let seen = lock(&self.seen);
            let count: usize = seen.logs.iter().map(Vec::len).sum();
            ensure!(seen.failure.is_none(), "the consumer: {}", seen.failure.as_deref().unwrap_or_default());
            Ok(count >= judge.seen())
        })?;
        let seen = lock(&self.seen);
        if seen.anew > 0 {
            report(&format!("the consumer heard nothing for a while and began anew, {} times", seen.anew));
        }
        for (partition, (saw, holds)) in seen.logs.iter().zip(&judge.logs).enumerate() {
            ensure!(saw == holds, "partition {partition}: a consumer saw what the log does not hold");
        }
        Ok(())
    }
}

impl Seen {
    fn hear(&mut self, line: &str) -> Result<()> {
        if line == "anew" {
            self.anew += 1;
            return Ok(());
        }
        let words: Vec<&str> = line.split([' ', '/']).collect();
        let [partition, offset, producer, sequence] = words[..] else { bail!("not a record: {line}") };
        let log = self.logs.get_mut(partition.parse::<usize>()?).context("no such partition")?;
        ensure!(offset.parse() == Ok(log.len()), "saw {line} where offset {} was due", log.len());
        log.push((producer.parse()?, sequence.parse()?));
        Ok(())
    }
}

/// What the log is known to hold.
#[derive(Debug)]
pub struct Judge {
    topic: String,
    logs: Logs,
    /// By partition and producer: the sequence number that must come next.
    next: Vec<Vec<u64>>,
}

impl Judge {
    /// A judge of an empty topic.
    pub fn new(topic: &str, partitions: usize, producers: usize) -> Judge {
        let next = (0..partitions).map(|p| vec![p as u64; producers]).collect();
        Judge { topic: topic.into(), logs: vec![Vec::new(); partitions], next }
    }

    /// Records seen so far.
    pub fn seen(&self) -> usize {
        self.logs.iter().map(Vec::len).sum()
    }

    /// Reads what is new in every partition, then checks every acknowledgement that was heard before the reading.
    pub fn read_on(&mut self, target: &impl Target, load: &Load) -> Result<()> {
        let heard = load.acked();
        for partition in 0..self.logs.len() {
            self.read_partition(target, partition).with_context(|| format!("partition {partition}"))?;
        }
        self.check(&lock(&load.said).acks[..heard])
    }

    /// Reads the whole log once more from its beginning: history must be what it was, and hold all that was sent.
    pub fn conclude(&mut self, target: &impl Target, settled: &Settled) -> Result<()> {
        for partition in 0..self.logs.len() {
            self.read_partition(target, partition).with_context(|| format!("partition {partition}"))?;
        }
        self.check(&settled.acks)?;
        self.read_again(target)?;
        let (seen, sent) = (self.seen() as u64, settled.total());
        ensure!(seen == sent, "sent {sent}, in the log {seen}");
        ensure!(settled.acks.len() as u64 == sent, "sent {sent}, acknowledged {}", settled.acks.len());
        Ok(())
    }

    /// Reads the whole log from its beginning: what was seen before must be there as it was.
    pub fn read_again(&self, target: &impl Target) -> Result<()> {
        let producers = self.next.first().map_or(0, Vec::len);
        let mut again = Judge::new(&self.topic, self.logs.len(), producers);
        for (partition, before) in self.logs.iter().enumerate() {
            again.read_partition(target, partition).with_context(|| format!("partition {partition}, read again"))?;
            let same = again.logs[partition].starts_with(before);
            ensure!(same, "the history of partition {partition} has changed");
        }
        Ok(())
    }

    /// Reads on to where the partition ends at this moment: under load a reader that waits for the end finds none.
    fn read_partition(&mut self, target: &impl Target, partition: usize) -> Result<()> {
        let from = self.logs[partition].len();
        let asked = self.ask_end(target, partition)?;
        let end: usize = asked.rsplit(' ').next().context("no offset")?.parse().context(asked.clone())?;
        ensure!(end >= from, "the log ends at {end}; it ended at {from} before");
        if end == from {
            return Ok(());
        }
        let set = format!("-C -t {} -p {partition} -o {from} -c {} -X check.crcs=true -f", self.topic, end - from);
        let mut read = target.place(kcat(&target.brokers()).typed(&set).arg("%o %s\\n")).start()?;
        while let Some(line) = read.next_line()? {
            self.take(partition, &line).with_context(|| format!("read from {from}, the end is {end}"))?;
        }
        let read_to = self.logs[partition].len();
        read.rest().with_context(|| format!("read to {read_to}, the end is {end}"))?;
        ensure!(read_to == end, "read to {read_to}, the end is {end}");
        Ok(())
    }

    /// A leader that is new can't say for a moment, and kcat does not ask again.
    fn ask_end(&self, target: &impl Target, partition: usize) -> Result<String> {
        let mut said = String::new();
        until("the end of the log", || {
            let ask = kcat(&target.brokers()).typed(&format!("-Q -t {}:{partition}:-1", self.topic));
            let done = target.place(ask).finish()?;
            said = done.lines.concat();
            Ok(done.status.success())
        })?;
        Ok(said)
    }

    fn take(&mut self, partition: usize, line: &str) -> Result<()> {
        let due = self.logs[partition].len();
        let (offset, value) = line.split_once(' ').with_context(|| format!("not a record: {line:.80}"))?;
        ensure!(offset.parse() == Ok(due), "offset {offset} where {due} was due");
        let mut parts = value.splitn(3, '/');
        let mut number = || parts.next().and_then(|p| p.parse::<u64>().ok());
        let (Some(producer), Some(sequence)) = (number(), number()) else {
            bail!("offset {due}: nobody sent {value:.80}");
        };
        let producer = usize::try_from(producer)?;
        ensure!(value == payload(producer, sequence), "offset {due}: nobody sent {value:.80}");
        let step = self.logs.len() as u64;
        let log = &self.logs[partition];
        let next = self.next[partition].get_mut(producer).with_context(|| format!("no producer {producer}"))?;
        ensure!(
            sequence == *next,
            "offset {due}: message {sequence} of producer {producer} where {next} was due: {}",
            match log.iter().rposition(|record| *record == (producer, sequence)) {
                Some(offset) => format!("doubled; it is at offset {offset}, too"),
                None if sequence < *next => "reordered".into(),
                None => "one was lost".into(),
            }
        );
        *next += step;
        self.logs[partition].push((producer, sequence));
        Ok(())
    }

    fn check(&self, acks: &[Acked]) -> Result<()> {
        // Where the place is not known, the totals at the end tell whether it is there.
        for (ack, offset) in acks.iter().filter_map(|ack| Some((ack, ack.offset?))) {
            let at = self.logs.get(ack.partition).and_then(|l| l.get(offset));
            let at = at.with_context(|| format!("acknowledged and lost: {ack:?}"))?;
            ensure!(*at == (ack.producer, ack.sequence), "acknowledged {ack:?}, but there is {at:?}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(offset: usize, producer: usize, sequence: u64) -> String {
        format!("{offset} {}", payload(producer, sequence))
    }

    fn judge_of(lines: &[String]) -> Result<Judge> {
        let mut judge = Judge::new("t", 2, 2);
        lines.iter().try_for_each(|l| judge.take(0, l))?;
        Ok(judge)
    }

    #[test]
    fn a_whole_log_is_accepted() {
        let judge = judge_of(&[line(0, 0, 0), line(1, 1, 0), line(2, 0, 2), line(3, 1, 2)]).unwrap();
        judge.check(&[Acked { producer: 0, sequence: 2, partition: 0, offset: Some(2) }]).unwrap();
    }

    #[test]
    fn faults_are_seen() {
        let verdict = |lines: &[String]| judge_of(lines).map(drop).unwrap_err().to_string();
        assert!(verdict(&[line(1, 0, 0)]).contains("was due"), "a gap");
        assert!(verdict(&[line(0, 0, 0), line(1, 0, 4)]).contains("lost"));
        assert!(verdict(&[line(0, 0, 0), line(1, 0, 0)]).contains("doubled"));
        assert!(verdict(&[line(0, 0, 0), format!("1 {}x", payload(0, 2))]).contains("nobody"), "changed");
        assert!(verdict(&[line(0, 0, 0), "1 hello".into()]).contains("nobody"), "invented");
        let judge = judge_of(&[line(0, 0, 0)]).unwrap();
        assert!(judge.check(&[Acked { producer: 0, sequence: 2, partition: 0, offset: Some(1) }]).is_err(), "lost");
        assert!(
            judge.check(&[Acked { producer: 1, sequence: 0, partition: 0, offset: Some(0) }]).is_err(),
            "another's"
        );
    }
}
