//! Messages with ids, published through two sidecars while these and the node are killed: whoever is not told the outcome publishes
//! again, and now and then somebody who was told. Each message is in the topic once, where everybody was told that it is.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use wherry_e2e::clients::{self, kcat};
use wherry_e2e::mesh::Mesh;
use wherry_e2e::records::Random;
use wherry_e2e::server::{Io, Kind};
use wherry_e2e::{report, setting};

const TOPIC: &str = "payments";
/// Published in each round, by so many at a time.
const MESSAGES: usize = 60;
const PUBLISHERS: usize = 4;
/// In percent: messages that are published again although the outcome is known.
const AGAIN: u64 = 30;
/// For one answer, and for one message until somebody takes it.
const ANSWER: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(90);

/// Partition and offset.
type Place = (i64, i64);

/// One attempt to publish; `None` where nobody said what became of it.
fn publish(address: &str, id: &str) -> Result<Option<(Place, bool)>> {
    let body = format!(r#"{{"topic": "{TOPIC}", "message_id": "{id}", "payload": "{id}"}}"#);
    let Ok(answer) = post(address, "/v1/publish?delivery=effectively_once", &body) else { return Ok(None) };
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return Ok(None) };
    let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    match status {
        200 => {
            let result: Value = serde_json::from_str(body).with_context(|| format!("no JSON: {body}"))?;
            let number = |name: &str| result[name].as_i64().with_context(|| format!("no {name} in {body}"));
            Ok(Some(((number("partition")?, number("offset")?), result["duplicate"] == true)))
        }
        // Unavailable, or unknown whether it was published.
        0 | 429 | 503 | 504 => Ok(None),
        _ => bail!("{id} was refused: {answer}"),
    }
}

fn post(address: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n");
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Until somebody says where it is.
fn insist(addresses: &[String; 2], first: usize, id: &str) -> Result<(Place, bool)> {
    let since = Instant::now();
    for attempt in first.. {
        if let Some(told) = publish(&addresses[attempt % 2], id)? {
            return Ok(told);
        }
        ensure!(since.elapsed() < PATIENCE, "nobody took {id} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("{id} was never tried")
}

/// What publishers know together.
#[derive(Default)]
struct Known {
    places: Mutex<BTreeMap<String, Place>>,
    duplicates: AtomicUsize,
}

impl Known {
    fn told(&self, id: &str, (place, duplicate): (Place, bool)) -> Result<()> {
        self.duplicates.fetch_add(usize::from(duplicate), Ordering::Relaxed);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *places.entry(id.to_owned()).or_insert(place);
        ensure!(first == place, "{id} is said to be at {first:?} and at {place:?}");
        Ok(())
    }
}

fn publisher(round: u64, number: usize, addresses: &[String; 2], known: &Known) -> Result<()> {
    let mut random = Random::new(round * 100 + number as u64);
    for n in (number..MESSAGES).step_by(PUBLISHERS) {
        let id = format!("{round}-{n}");
        let first = usize::try_from(random.below(2))?;
        known.told(&id, insist(addresses, first, &id)?)?;
        if random.below(100) < AGAIN {
            let again = insist(addresses, first + 1, &id)?;
            ensure!(again.1, "{id} was published again and is not said to be a duplicate");
            known.told(&id, again)?;
        }
    }
    Ok(())
}

/// What befalls the mesh while they publish.
fn trouble(round: u64, mesh: &mut Mesh) -> Result<&'static str> {
    let mut random = Random::new(round ^ 0x5eed);
    std::thread::sleep(Duration::from_millis(20 + random.below(300)));
    match random.below(4) {
        0 => mesh.outage().map(|()| "the node was killed"),
        1 => {
            mesh.replace(0)?;
            mesh.replace(1).map(|()| "both sidecars were killed")
        }
        n => mesh.replace(usize::try_from(n % 2)?).map(|()| "a sidecar was killed"),
    }
}

#[test]
fn messages_with_ids_are_there_once_whatever_is_killed() -> Result<()> {
    clients::ensure("packages")?;
    let topic = format!("{TOPIC} --partitions 3 --config wherry.dedupe.window.ms=3600000");
    let mut mesh = Mesh::with(Kind::Wherry(Io::IoUring), &[topic])?;
    let known = Known::default();
    for round in 1..=setting("WHERRY_ID_ROUNDS", 5)? {
        let addresses = mesh.addresses();
        let befell = std::thread::scope(|scope| {
            let (addresses, known) = (&addresses, &known);
            let publishers: Vec<_> =
                (0..PUBLISHERS).map(|number| scope.spawn(move || publisher(round, number, addresses, known))).collect();
            let befell = trouble(round, &mut mesh)?;
            for publisher in publishers {
                publisher.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))??;
            }
            anyhow::Ok(befell)
        });
        report(&format!("round {round}: {}", befell.with_context(|| mesh.last_words())?));
    }
    let places = known.places.into_inner().unwrap_or_else(PoisonError::into_inner);
    let duplicates = known.duplicates.into_inner();
    ensure!(duplicates > 0, "nothing was published twice");
    let read =
        kcat(&mesh.node()?.addr()).typed(&format!("-C -t {TOPIC} -o beginning -e -f")).arg("%p %o %s\n").run()?;
    let mut there = BTreeMap::new();
    for line in &read {
        let words: Vec<&str> = line.split(' ').collect();
        let [partition, offset, id] = words[..] else { bail!("kcat says {line:?}") };
        let place = (partition.parse::<i64>()?, offset.parse::<i64>()?);
        if let Some(other) = there.insert(id.to_owned(), place) {
            bail!("{id} is at {other:?} and at {place:?}");
        }
    }
    for (id, place) in &places {
        ensure!(there.get(id) == Some(place), "{id} was said to be at {place:?}, it is at {:?}", there.get(id));
    }
    ensure!(there.len() == places.len(), "{} messages are there, {} were published", there.len(), places.len());
    report(&format!("{} messages, {duplicates} duplicates told", places.len()));
    mesh.stop()
}
