//! Share groups (KIP-932) with Kafka's own share consumer and tools: members share a partition, records come again or not as
//! they say, and nothing that was acknowledged is lost by a `kill -9`.

use anyhow::{Context, Result, ensure};
use wherry_e2e::process::Running;
use wherry_e2e::server::{Kind, Options, Server};
use wherry_e2e::share::{Tally, begin, configure, counted, member, produce, records, tool, values};
use wherry_e2e::until;

use crate::each;

fn groups(server: &Server, set: &str) -> Result<Vec<String>> {
    tool(&server.addr(), "consumer.group.ShareGroupCommand").typed(set).run()
}

#[test]
fn two_members_share_a_partition_and_each_record_is_handled_once() -> Result<()> {
    each(|server| {
        let brokers = server.addr();
        begin(&brokers, "share-two", "share-two", 1)?;
        let mut sent = values(300, "two");
        let script = "take 200\naccept all\nhandle 10\n";
        let start = || member(&brokers, "share-two", "share-two", script).arg("max.poll.records=10").start();
        let members: Vec<Running> = vec![start()?, start()?];
        until("both to be members", || {
            let shown = groups(server, "--describe --members --group share-two").unwrap_or_default();
            Ok(shown.iter().filter(|line| line.contains("share-two:0")).count() == 2)
        })?;
        produce(&brokers, "share-two", &sent)?;
        let mut all = Vec::new();
        for member in members {
            let mine = records(&member.rest()?)?;
            ensure!(!mine.is_empty(), "one member was given nothing");
            all.extend(mine);
        }
        ensure!(all.iter().all(|(_, count)| *count == 1), "a record came twice");
        let mut handled: Vec<String> = all.into_iter().map(|(value, _)| value).collect();
        handled.sort();
        sent.sort();
        ensure!(handled == sent, "{} of {} records were handled", handled.len(), sent.len());
        let shown = groups(server, "--describe --group share-two")?.join("\n");
        ensure!(shown.contains("300"), "the group is not at the end: {shown}");
        Ok(())
    })
}

#[test]
fn released_records_come_again_and_rejected_ones_do_not() -> Result<()> {
    each(|server| {
        let brokers = server.addr();
        begin(&brokers, "share-again", "share-again", 1)?;
        produce(&brokers, "share-again", &["a", "b", "c"].map(String::from))?;
        let script = "take 60\naccept a\nrelease b\nreject c\ntake 60\nrenew b\ntake 60\naccept b\ntake 4\nclose\n";
        let first = member(&brokers, "share-again", "share-again", script).run()?;
        let expected =
            [("a", 1), ("b", 1), ("c", 1), ("b", 2), ("b", 2)].map(|(value, count)| (value.to_owned(), count));
        ensure!(records(&first)? == expected, "{first:?}");
        let second = member(&brokers, "share-again", "share-again", "take 6\n").run()?;
        ensure!(records(&second)?.is_empty(), "{second:?}");
        Ok(())
    })
}

#[test]
fn what_was_acknowledged_before_a_kill_does_not_come_again() -> Result<()> {
    wherry_e2e::clients::ensure("all")?;
    for kind in Kind::chosen() {
        kill(kind).with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

fn kill(kind: Kind) -> Result<()> {
    let server = Server::start(kind, Options::default())?;
    let brokers = server.addr();
    begin(&brokers, "share-kill", "share-kill", 1)?;
    let sent = values(200, "kill");
    produce(&brokers, "share-kill", &sent)?;
    let script = "take 60\naccept all\nhandle 10\n";
    let mut first = member(&brokers, "share-kill", "share-kill", script).arg("max.poll.records=6").start()?;
    let mut tally = Tally::default();
    while tally.acknowledged.len() < 60 {
        tally.take(&first.line()?)?;
    }
    server.kill()?;
    tally.kill(first)?;
    server.start_again()?;
    let script = "take 60\naccept all\nhandle 10\n";
    let second = member(&brokers, "share-kill", "share-kill", script).run()?;
    ensure!(counted(&records(&second)?).values().all(|count| *count == 1), "handled twice after the restart");
    second.iter().try_for_each(|line| tally.take(line))?;
    tally.conclude(&sent)
}

#[test]
fn consoles_read_and_administrators_see_reset_and_delete_groups() -> Result<()> {
    each(|server| {
        let brokers = server.addr();
        begin(&brokers, "share-tools", "share-tools", 1)?;
        produce(&brokers, "share-tools", &values(10, "tools"))?;
        let console = || {
            let set = "--topic share-tools --group share-tools --max-messages 10 --timeout-ms 60000";
            tool(&brokers, "consumer.ConsoleShareConsumer").typed(set).run()
        };
        let mut read = console()?;
        read.sort();
        ensure!(read == values(10, "tools"), "{read:?}");
        ensure!(groups(server, "--list")?.iter().any(|line| line.trim() == "share-tools"), "it is not listed");
        let state = groups(server, "--describe --state --group share-tools")?.join("\n");
        ensure!(state.contains("Empty"), "{state}");
        let set = "--group share-tools --reset-offsets --to-earliest --topic share-tools --execute";
        let reset = groups(server, set)?.join("\n");
        ensure!(reset.contains("share-tools"), "{reset}");
        let mut again = console()?;
        again.sort();
        ensure!(again == values(10, "tools"), "after the reset: {again:?}");
        groups(server, "--group share-tools --delete-offsets --topic share-tools")?;
        groups(server, "--group share-tools --delete")?;
        ensure!(!groups(server, "--list")?.iter().any(|line| line.trim() == "share-tools"), "it is still listed");
        Ok(())
    })
}

/// Dead letters are Wherry's own.
#[test]
fn what_is_given_up_is_copied_to_the_dead_letter_topic() -> Result<()> {
    each(|server| {
        if server.kind().is_kafka() {
            return Ok(());
        }
        let brokers = server.addr();
        begin(&brokers, "share-dead", "share-dead", 1)?;
        begin(&brokers, "share-letters", "share-letters", 1)?;
        configure(&brokers, "share-dead", "wherry.dead.letter.topic=share-letters")?;
        configure(&brokers, "share-dead", "share.delivery.count.limit=2")?;
        produce(&brokers, "share-dead", &["a", "b", "c"].map(String::from))?;
        let script = "take 60\naccept a\nreject b\nrelease c\ntake 60\nrelease c\ntake 4\nclose\n";
        let said = member(&brokers, "share-dead", "share-dead", script).run()?;
        ensure!(records(&said)?.len() == 4, "{said:?}");
        let set = "--topic share-letters --from-beginning --max-messages 2 --timeout-ms 60000 \
                   --formatter-property print.headers=true";
        let letters = tool(&brokers, "consumer.ConsoleConsumer").typed(set).run()?;
        for (line, words) in letters.iter().zip([["rejected", "b"], ["max-deliveries", "c"]]) {
            ensure!(words.iter().all(|word| line.contains(word)), "{letters:?}");
            ensure!(line.contains("wherry-dead-letter-topic:share-dead"), "{letters:?}");
        }
        ensure!(letters.len() == 2, "{letters:?}");
        Ok(())
    })
}
