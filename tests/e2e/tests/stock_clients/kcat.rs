//! kcat: produce and consume with every codec, groups, metadata, offsets by time.

use anyhow::{Context, Result, ensure};
use wherry_e2e::clients::{CODECS, kcat};
use wherry_e2e::records::{Received, check_content, check_offsets, lines, records};
use wherry_e2e::server::Server;

use crate::each;

fn produce(server: &Server, topic: &str, codec: &str, input: Vec<u8>) -> Result<()> {
    kcat(&server.addr()).typed("-P -z").arg(codec).arg("-t").arg(topic).arg("-K").arg("\t").input(input).run()?;
    Ok(())
}

const FORMAT: &str = "%p\\t%o\\t%k\\t%s\\n";

fn parse(lines: &[String]) -> Result<Vec<Received>> {
    let one = |line: &String| {
        let mut fields = line.splitn(4, '\t');
        let mut next = || fields.next().with_context(|| format!("not a record: {line:.100}"));
        let (partition, offset) = (next()?.parse()?, next()?.parse()?);
        Ok(Received { partition, offset, key: next()?.into(), value: next()?.into(), member: 0 })
    };
    lines.iter().map(one).collect()
}

fn consume_all(server: &Server, topic: &str) -> Result<Vec<Received>> {
    parse(&kcat(&server.addr()).typed("-C -e -o beginning -t").arg(topic).arg("-f").arg(FORMAT).run()?)
}

#[test]
fn what_kcat_produces_with_each_codec_it_consumes() -> Result<()> {
    each(|server| {
        for codec in CODECS {
            let topic = format!("kcat-{codec}");
            let sent = records(1500, &topic);
            produce(server, &topic, codec, lines(&sent))?;
            let received = consume_all(server, &topic).context(codec)?;
            check_content(&sent, &received).context(codec)?;
            check_offsets(&received, 0).context(codec)?;
        }
        Ok(())
    })
}

#[test]
fn an_idempotent_kcat_producer_is_served() -> Result<()> {
    each(|server| {
        let sent = records(3000, "kcat-idempotent");
        let set = "-P -t kcat-idempotent -z lz4 -X enable.idempotence=true -X queue.buffering.max.ms=1 -K";
        kcat(&server.addr()).typed(set).arg("\t").input(lines(&sent)).run()?;
        let received = consume_all(server, "kcat-idempotent")?;
        check_content(&sent, &received)?;
        check_offsets(&received, 0)
    })
}

#[test]
fn without_acknowledgements_records_still_arrive() -> Result<()> {
    each(|server| {
        let sent = records(500, "kcat-acks0");
        kcat(&server.addr()).typed("-P -t kcat-acks0 -X acks=0 -K").arg("\t").input(lines(&sent)).run()?;
        let mut received = Vec::new();
        wherry_e2e::until("all records", || {
            received = consume_all(server, "kcat-acks0")?;
            Ok(received.len() >= sent.len())
        })?;
        check_content(&sent, &received)
    })
}

fn consume_as_group(server: &Server, topic: &str, group: &str) -> Result<Vec<Received>> {
    let set = "-e -X auto.offset.reset=earliest -X session.timeout.ms=6000 -f";
    parse(&kcat(&server.addr()).typed(set).arg(FORMAT).arg("-G").arg(group).arg(topic).run()?)
}

#[test]
fn a_kcat_group_goes_on_where_it_left_off() -> Result<()> {
    each(|server| {
        let sent = records(400, "kcat-group");
        produce(server, "kcat-group", "none", lines(&sent[..250]))?;
        let first = consume_as_group(server, "kcat-group", "kcat-readers")?;
        check_content(&sent[..250], &first)?;
        produce(server, "kcat-group", "zstd", lines(&sent[250..]))?;
        let second = consume_as_group(server, "kcat-group", "kcat-readers")?;
        check_content(&sent[250..], &second)?;
        check_offsets(&second, 250)?;
        let third = consume_as_group(server, "kcat-group", "kcat-readers")?;
        ensure!(third.is_empty(), "read again: {}", third.len());
        Ok(())
    })
}

#[test]
fn metadata_names_the_broker_and_the_topic() -> Result<()> {
    each(|server| {
        produce(server, "kcat-metadata", "none", b"k\tv\n".to_vec())?;
        let said = kcat(&server.addr()).typed("-L -J -t kcat-metadata").run()?.concat();
        let metadata: serde_json::Value = serde_json::from_str(&said)?;
        ensure!(metadata["brokers"][0]["name"] == server.addr(), "brokers: {}", metadata["brokers"]);
        let topic = &metadata["topics"][0];
        let partition = &topic["partitions"][0];
        ensure!(topic["topic"] == "kcat-metadata" && partition["leader"] == metadata["brokers"][0]["id"], "{topic}");
        ensure!(partition["isrs"].as_array().is_some_and(|i| i.len() == 1), "{topic}");
        Ok(())
    })
}

#[test]
fn headers_null_values_and_timestamps_survive() -> Result<()> {
    each(|server| {
        let to = |args: &str| kcat(&server.addr()).typed("-P -t kcat-odd -H a=1 -H a=2 -H empty").typed(args);
        to("-K :").input("with-key:with-value\n").run()?;
        to("-K : -Z").input("null-value:\n").run()?;
        let read = kcat(&server.addr()).typed("-C -e -o beginning -t kcat-odd -J").run()?;
        let records: Vec<serde_json::Value> = read.iter().map(|l| serde_json::from_str(l)).collect::<Result<_, _>>()?;
        ensure!(records.len() == 2, "{read:?}");
        ensure!(records[0]["headers"] == serde_json::json!(["a", "1", "a", "2", "empty", null]), "{}", records[0]);
        ensure!(records[1]["payload"].is_null() && records[1]["key"] == "null-value", "{}", records[1]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as f64;
        let ts = records[0]["ts"].as_f64().context("no timestamp")?;
        ensure!(records[0]["tstype"] == "create" && (now - ts).abs() < 600_000.0, "{}", records[0]);
        Ok(())
    })
}

#[test]
fn reading_from_an_offset_inside_a_batch_and_from_the_tail() -> Result<()> {
    each(|server| {
        let sent = records(900, "kcat-seek");
        produce(server, "kcat-seek", "gzip", lines(&sent))?;
        for (from, want) in [("413", &sent[413..]), ("-7", &sent[893..])] {
            let set = format!("-C -e -p 0 -t kcat-seek -o {from} -f");
            let received = parse(&kcat(&server.addr()).typed(&set).arg(FORMAT).run()?)?;
            ensure!(received.first().map(|r| &r.value) == want.first().map(|r| &r.value), "from {from}");
            check_content(want, &received).context(from)?;
        }
        Ok(())
    })
}

#[test]
fn offsets_are_found_by_time() -> Result<()> {
    each(|server| {
        let mut middle = 0.0;
        for i in 0..3 {
            produce(server, "kcat-time", "none", lines(&records(20, &format!("kcat-time-{i}"))))?;
            let last = kcat(&server.addr()).typed("-C -e -o -1 -t kcat-time -J").run()?.concat();
            let record: serde_json::Value = serde_json::from_str(&last)?;
            let ts = record["ts"].as_f64().context("no timestamp")?;
            if i == 1 {
                middle = ts;
            }
            // The clock must move on before the next lot, or the lots can't be told apart by time.
            wherry_e2e::until("the clock", || {
                Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as f64 > ts)
            })?;
        }
        let ask = |ts: f64| -> Result<String> {
            Ok(kcat(&server.addr()).typed(&format!("-Q -t kcat-time:0:{ts:.0}")).run()?.concat())
        };
        ensure!(ask(middle + 1.0)?.ends_with("offset 40"), "after the second lot: {}", ask(middle + 1.0)?);
        let at = ask(middle)?;
        let offset: i64 = at.rsplit(' ').next().context("no answer")?.parse()?;
        ensure!((20..40).contains(&offset), "at the second lot's last time: {at}");
        ensure!(ask(0.0)?.ends_with("offset 0"), "at time 0: {}", ask(0.0)?);
        ensure!(
            ask(middle + 1e12)?.ends_with("offset -1") || ask(middle + 1e12)?.ends_with("offset 60"),
            "in the future"
        );
        Ok(())
    })
}
