//! INV-7 and INV-8 from outside: connections that dribble or never read, bytes that lie, and a disk that fills up.
//! Memory stays bounded, other clients are served, errors are the right ones, and space that is freed is used again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wherry_bench::frame::{Writer, batch};
use wherry_bench::raw::Appender;
use wherry_e2e::clients::{ensure, kcat};
use wherry_e2e::loopfs::LoopFs;
use wherry_e2e::records::{Random, lines, records};
use wherry_e2e::server::{Kind, Options, Server};
use wherry_e2e::{notice, report, setting, until};

/// KAFKA_STORAGE_ERROR: what a broker says that can't store now, but may later.
const STORAGE_ERROR: i16 = 56;

fn each(test: impl Fn(&Server) -> Result<()>) -> Result<()> {
    ensure("all")?;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    for kind in Kind::chosen() {
        let server = Server::start(kind, Options::default())?;
        test(&server).with_context(|| format!("{kind:?}: {}", server.last_words()))?;
    }
    Ok(())
}

/// Others are served: a topic of its own, in and out.
fn serves(server: &Server, topic: &str) -> Result<()> {
    let sent = records(200, topic);
    kcat(&server.addr()).typed(&format!("-P -t {topic} -K")).arg("\t").input(lines(&sent)).run()?;
    let got = kcat(&server.addr()).typed(&format!("-C -e -o beginning -t {topic}")).run()?;
    let wanted: Vec<&str> = sent.iter().map(|r| r.value.as_str()).collect();
    ensure!(got == wanted, "{topic}: sent {}, received {}", sent.len(), got.len());
    Ok(())
}

#[test]
fn ten_thousand_slow_connections_leave_memory_flat_and_others_served() -> Result<()> {
    each(|server| {
        if server.kind().is_kafka() {
            notice("the slow connections test was NOT run: Kafka allocates what a frame declares, and dies of it");
            return Ok(());
        }
        let count = usize::try_from(setting("WHERRY_SLOW_CONNECTIONS", 10_000)?)?;
        serves(server, "before")?;
        let before = server.resident_kib()?;
        let mut slow = Vec::new();
        for i in 0..count {
            slow.push(TcpStream::connect(server.addr()).with_context(|| format!("connection {i}"))?);
        }
        // A third says nothing; a third promises a large frame and dribbles; a third dribbles its length.
        let promise = [&(90_i32 << 20).to_be_bytes()[..], &[0, 3, 0, 4, 0, 0, 0, 1]].concat();
        for round in 0..4 {
            let begin = Instant::now();
            for (i, stream) in slow.iter_mut().enumerate() {
                match i % 3 {
                    0 => {}
                    1 if round == 0 => stream.write_all(&promise)?,
                    1 => stream.write_all(&[0])?,
                    _ if round < 3 => stream.write_all(&[0])?,
                    _ => {}
                }
            }
            serves(server, &format!("meanwhile-{round}"))?;
            std::thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed())); // a byte a second
        }
        let grown = server.resident_kib()?.saturating_sub(before);
        report(&format!("{:?}: {count} slow connections: {grown} KiB more", server.kind()));
        let allowed = 16 * 1024 + 4 * count as u64;
        ensure!(grown < allowed, "{count} slow connections took {grown} KiB, more than {allowed}");
        drop(slow);
        serves(server, "after")
    })
}

#[test]
fn a_client_that_never_reads_does_not_grow_memory() -> Result<()> {
    each(|server| {
        let big = records(1, "never-read").remove(0).value.repeat(1 + 20_000 / 400);
        let text: String = std::iter::repeat_n(format!("{big}\n"), 600).collect();
        kcat(&server.addr()).typed("-P -t never-read").input(text).run()?;
        let before = server.resident_kib()?;
        let request = fetch("never-read");
        let mut deaf = Vec::new();
        for _ in 0..64 {
            let stream = TcpStream::connect(server.addr())?;
            stream.set_write_timeout(Some(Duration::from_millis(200)))?;
            deaf.push(stream);
        }
        for stream in &mut deaf {
            for _ in 0..2000 {
                // The server stops reading from who does not read: then our own buffers fill, and the write times out.
                if stream.write_all(&request).is_err() {
                    break;
                }
            }
        }
        serves(server, "beside-the-deaf")?;
        let grown = server.resident_kib()?.saturating_sub(before);
        report(&format!("{:?}: 64 deaf connections: {grown} KiB more", server.kind()));
        ensure!(grown < 512 * 1024, "64 clients that never read took {grown} KiB");
        drop(deaf);
        serves(server, "after-the-deaf")
    })
}

/// A fetch of up to 1 MiB of partition 0 from its beginning (version 4).
fn fetch(topic: &str) -> Vec<u8> {
    request(1, 4, |w| {
        w.i32(-1); // replica
        w.i32(500); // max wait
        w.i32(1); // min bytes
        w.i32(1 << 20);
        w.i8(0);
        w.len(1);
        w.string(topic.as_bytes());
        w.len(1);
        w.i32(0);
        w.i64(0);
        w.i32(1 << 20);
    })
}

fn request(key: i16, version: i16, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    w.i32(0);
    w.i16(key);
    w.i16(version);
    w.i32(7);
    w.string(b"hostile");
    body(&mut w);
    w.close_frame(0);
    w.0
}

/// Well-formed requests of many kinds, to be spoiled.
fn honest() -> Vec<Vec<u8>> {
    let topics = |w: &mut Writer| {
        w.len(1);
        w.string(b"hostile-topic");
    };
    vec![
        request(18, 0, |_| {}),
        request(18, 3, |w| w.0.extend([0, 5, b'n', b'a', b'm', b'e', 2, b'1', 0])),
        request(3, 4, |w| {
            topics(w);
            w.i8(0);
        }),
        request(3, 12, |w| {
            // Flexible: header tags, one topic by name, flags, tags.
            w.0.extend([0, 2]);
            w.0.extend([0; 16]);
            w.0.extend(b"\x0ehostile-topic\0\0\0\0");
        }),
        fetch("hostile-topic"),
        request(0, 7, |w| {
            w.i16(-1);
            w.i16(-1);
            w.i32(1000);
            topics(w);
            w.len(1);
            w.i32(0);
            w.bytes(&batch(3, 50, 1_700_000_000_000));
        }),
        request(2, 1, |w| {
            w.i32(-1);
            topics(w);
            w.len(1);
            w.i32(0);
            w.i64(-1);
        }),
        request(19, 1, |w| {
            topics(w);
            w.i32(1);
            w.i16(1);
            w.len(0);
            w.len(0);
            w.i32(1000);
            w.i8(1); // only validate
        }),
        request(11, 1, |w| {
            w.string(b"hostile-group");
            w.i32(6000);
            w.i32(6000);
            w.string(b"");
            w.string(b"consumer");
            w.len(1);
            w.string(b"range");
            w.bytes(&[0, 0, 0, 0, 0, 0]);
        }),
        request(22, 1, |w| {
            w.i16(-1);
            w.i32(1000);
        }),
    ]
}

/// Sends bytes and hears what the server makes of them; anything but silence and growth is fine.
fn throw(server: &Server, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(server.addr())?;
    stream.set_nodelay(true)?;
    if stream.write_all(bytes).is_err() {
        return Ok(());
    }
    let _ = stream.shutdown(std::net::Shutdown::Write); // so that a server which waits for more learns there is none
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    let _ = stream.read(&mut [0; 256]);
    Ok(())
}

#[test]
fn hostile_bytes_neither_end_the_node_nor_grow_it() -> Result<()> {
    each(|server| {
        let seed = setting("WHERRY_SEED", u64::from(std::process::id()))?;
        let rounds = setting("WHERRY_HOSTILE_ROUNDS", 1500)?;
        let mut random = Random::new(seed);
        serves(server, "before-hostility")?;
        let pid = server.pid()?;
        let before = server.resident_kib()?;
        let honest = honest();
        for length in [-1, 0, 1, 7, i32::MAX, i32::MIN, 1 << 30] {
            throw(server, &i32::to_be_bytes(length))?;
            throw(server, &[&i32::to_be_bytes(length)[..], &[0xff; 64]].concat())?;
        }
        for round in 0..rounds {
            let pick = usize::try_from(random.below(honest.len() as u64))?;
            throw(server, &spoil(&honest[pick], &mut random)).with_context(|| format!("round {round}, seed {seed}"))?;
        }
        serves(server, "after-hostility").with_context(|| format!("WHERRY_SEED={seed}"))?;
        ensure!(server.pid()? == pid, "the server was restarted");
        let grown = server.resident_kib()?.saturating_sub(before);
        report(&format!("{:?}: {rounds} hostile requests: {grown} KiB more", server.kind()));
        ensure!(grown < 128 * 1024, "hostile bytes took {grown} KiB (WHERRY_SEED={seed})");
        Ok(())
    })
}

/// Changes some bytes to those that lie best, sometimes cuts the end, and then tells the true length of the result.
fn spoil(honest: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = honest.to_vec();
    for _ in 0..=random.below(3) {
        let at = 8 + usize::try_from(random.below(bytes.len() as u64 - 8)).unwrap_or(0);
        let run = 1 + usize::try_from(random.below(5)).unwrap_or(0);
        let value = [0, 0x7f, 0x80, 0xff, 1][usize::try_from(random.below(5)).unwrap_or(0)];
        let end = bytes.len().min(at + run);
        bytes[at..end].fill(value);
    }
    if random.below(4) == 0 {
        bytes.truncate(8 + usize::try_from(random.below(bytes.len() as u64 - 8)).unwrap_or(0));
    }
    Writer(bytes).closed()
}

trait Closed {
    fn closed(self) -> Vec<u8>;
}

impl Closed for Writer {
    fn closed(mut self) -> Vec<u8> {
        self.close_frame(0);
        self.0
    }
}

#[test]
fn a_full_disk_is_told_and_used_again_when_there_is_room() -> Result<()> {
    ensure("all")?;
    for kind in Kind::chosen() {
        if kind.is_kafka() {
            notice("the full disk test was NOT run: Kafka stops when its disk is full");
            continue;
        }
        let Some(fs) = LoopFs::mount_new(768, "the full disk test")? else { return Ok(()) };
        full_disk(kind, &fs).with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

fn full_disk(kind: Kind, fs: &LoopFs) -> Result<()> {
    let sizes = "--journal-size 32MiB --reserve 64MiB --tail-size 16MiB";
    let wherry_args = sizes.split(' ').map(String::from).collect();
    let server =
        Server::start(kind, Options { data: Some(fs.path().join("data")), wherry_args, ..Options::default() })?;
    let filler = std::fs::File::create(fs.path().join("filler"))?;
    let fill = fs.free_bytes()?.saturating_sub(200 << 20);
    rustix::fs::fallocate(&filler, FallocateFlags::empty(), 0, fill)?;
    kcat(&server.addr()).typed("-L -t full").run()?; // makes the topic
    let mut appender = Appender::connect(server.addr().parse()?, "full", 64 << 10)?;
    let mut acked = 0;
    let refused = loop {
        let (error, offset) = appender.try_append().with_context(|| server.last_words())?;
        if error != 0 {
            break error;
        }
        ensure!(offset == acked, "offset {offset} where {acked} was due");
        acked += 1;
        ensure!(acked < 768 * 16, "appends went on although the disk is smaller than them");
    };
    ensure!(refused == STORAGE_ERROR, "a full disk was answered with error {refused}");
    ensure!(acked > 100, "refused after {acked} appends already");
    check_read(&server, acked).context("while the disk is full")?;
    kcat(&server.addr()).typed("-L -t made-while-full").run().context("metadata while the disk is full")?;
    let left = fs.free_bytes()?;
    ensure!(left > 16 << 20, "the reserve was used up: {left} bytes are free\n{}", server.last_words());

    // It also comes back from a crash while there is no room.
    server.kill()?;
    server.start_again()?;
    check_read(&server, acked).context("after a crash with a full disk")?;

    drop(filler);
    std::fs::remove_file(fs.path().join("filler"))?;
    let mut appender = Appender::connect(server.addr().parse()?, "full", 64 << 10)?;
    until("room to be noticed", || match appender.try_append()? {
        (0, offset) => {
            ensure!(offset == acked, "offset {offset} where {acked} was due");
            Ok(true)
        }
        (STORAGE_ERROR, _) => Ok(false),
        (error, _) => anyhow::bail!("answered with error {error}"),
    })
    .with_context(|| server.last_words())?;
    check_read(&server, acked + 1)?;
    report(&format!("{kind:?}: {acked} appends of 64 KiB until the disk was full"));
    server.stop().map(drop)
}

fn check_read(server: &Server, count: i64) -> Result<()> {
    let set = format!("-C -t full -p 0 -o beginning -c {count} -f");
    let got = kcat(&server.addr()).typed(&set).arg("%o %S\\n").run()?;
    ensure!(got.len() as i64 == count, "acknowledged {count}, read {}", got.len());
    for (i, line) in got.iter().enumerate() {
        ensure!(*line == format!("{i} {}", 64 << 10), "record {i}: {line}");
    }
    let end = kcat(&server.addr()).typed("-Q -t full:0:-1").run()?.concat();
    ensure!(end.ends_with(&format!("offset {count}")), "acknowledged {count}, the end is: {end}");
    Ok(())
}
