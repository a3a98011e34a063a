//! The programs under `examples/`: how each is called, who plays which part, and whether what they tell adds up.
//!
//! Each is called `PROGRAM ROLE COUNT`, finds the sidecar by `WHERRY_ADDRESS`, tells each event as a line of JSON and ends by
//! itself. This file must not know how they do it, or what runs behind the sidecar.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::process::{Program, Running};

/// What a first build may take: toolchains fetch what they need.
const BUILDING: Duration = Duration::from_secs(1800);
/// How `examples.sh` says that a toolchain is missing.
const NOT_HERE: i32 = 3;

/// The languages that the shop is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// grpcio.
    Python,
    /// grpc-go.
    Go,
    /// grpc-java.
    Java,
    /// grpc-js.
    Node,
    /// tonic.
    Rust,
    /// curl.
    Bash,
}

impl Language {
    /// All of them, in the order in which they are paired.
    pub const ALL: [Language; 6] =
        [Language::Python, Language::Go, Language::Java, Language::Node, Language::Rust, Language::Bash];

    /// As its folder is called, and as its stock service calls itself.
    pub fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::Go => "go",
            Language::Java => "java",
            Language::Node => "node",
            Language::Rust => "rust",
            Language::Bash => "bash",
        }
    }

    /// Its program, built; `None`, with a notice, where this machine lacks what it needs.
    ///
    /// # Errors
    /// It does not build.
    pub fn build(self) -> Result<Option<Shop>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples.sh");
        let built = Program::new(script).arg(self.name()).deadline(BUILDING).finish()?;
        if built.status.code() == Some(NOT_HERE) {
            crate::notice(&format!("the examples in {} were NOT run: {}", self.name(), built.errors.trim()));
            return Ok(None);
        }
        ensure!(built.status.success(), "the example in {} does not build: {}", self.name(), built.errors);
        Ok(Some(Shop { language: self, command: built.lines }))
    }
}

/// One language's program.
#[derive(Clone, Debug)]
pub struct Shop {
    language: Language,
    command: Vec<String>,
}

impl Shop {
    /// Those that can be had here.
    ///
    /// # Errors
    /// One does not build.
    pub fn all() -> Result<Vec<Shop>> {
        let built = Language::ALL.into_iter().filter_map(|language| language.build().transpose());
        let built: Vec<Shop> = built.collect::<Result<_>>()?;
        ensure!(!built.is_empty(), "no example can be run here; install what the notices name");
        Ok(built)
    }

    /// In which language it is.
    pub fn language(&self) -> Language {
        self.language
    }

    /// It as `role`, for so many orders.
    ///
    /// # Errors
    /// It has no command.
    pub fn program(&self, role: &str, count: usize, sidecar: &str) -> Result<Program> {
        let (program, rest) = self.command.split_first().context("examples.sh named no program")?;
        let program = rest.iter().fold(Program::new(program), Program::arg);
        Ok(program.arg(role).arg(count.to_string()).env("WHERRY_ADDRESS", sidecar))
    }

    fn start(&self, role: &str, count: usize, sidecar: &str) -> Result<Running> {
        self.program(role, count, sidecar)?.start()
    }
}

/// Who plays which part.
#[derive(Clone, Copy, Debug)]
pub struct Cast<'a> {
    orders: &'a Shop,
    stock: &'a Shop,
    billing: &'a Shop,
    shipping: &'a Shop,
    packing: [&'a Shop; 2],
}

impl<'a> Cast<'a> {
    /// The parts given round, beginning with the order service; over all starts each language plays each part.
    pub fn starting_with(shops: &'a [Shop], first: usize) -> Cast<'a> {
        let at = |place: usize| &shops[(first + place) % shops.len()];
        Cast { orders: at(0), stock: at(1), billing: at(2), shipping: at(3), packing: [at(4), at(5)] }
    }

    /// For messages.
    pub fn title(&self) -> String {
        let [one, other] = self.packing.map(|shop| shop.language.name());
        let [orders, stock, billing, shipping] =
            [self.orders, self.stock, self.billing, self.shipping].map(|shop| shop.language.name());
        format!("orders {orders}, stock {stock}, billing {billing}, shipping {shipping}, packing {one} and {other}")
    }

    /// Starts everyone, the order service and its bookkeeper at the first sidecar, the others at the second. The count must be
    /// even: two pack the same orders, half of them each.
    ///
    /// # Errors
    /// A program can't be started.
    pub fn play(&self, count: usize, [office, store]: &[String; 2]) -> Result<Play> {
        ensure!(count.is_multiple_of(2), "{count} orders can't be packed by two in equal parts");
        let [one, other] = self.packing;
        Ok(Play {
            count,
            answerer: self.stock.language.name(),
            stock: self.stock.start("stock", count, store)?,
            billing: self.billing.start("billing", count, office)?,
            shipping: self.shipping.start("shipping", count, store)?,
            packing: [one.start("packing", count / 2, store)?, other.start("packing", count / 2, store)?],
            orders: self.orders.start("orders", count, office)?,
            told: Vec::new(),
        })
    }
}

/// Programs that run.
#[derive(Debug)]
pub struct Play {
    count: usize,
    answerer: &'static str,
    orders: Running,
    stock: Running,
    billing: Running,
    shipping: Running,
    packing: [Running; 2],
    /// By the order service, so far.
    told: Vec<Told>,
}

impl Play {
    /// Waits until so many orders are published.
    ///
    /// # Errors
    /// The order service ended before that, or does not get there in time.
    pub fn await_published(&mut self, count: usize) -> Result<()> {
        while self.told.iter().filter(|told| told.event == "published").count() < count {
            self.told.push(parse(&self.orders.line()?)?);
        }
        Ok(())
    }

    /// Waits until everyone has ended, with success.
    ///
    /// # Errors
    /// Someone failed, or does not end in time.
    pub fn finish(self) -> Result<Account> {
        let mut orders = self.told;
        orders.extend(rest(self.orders)?);
        let [one, other] = self.packing;
        Ok(Account {
            count: self.count,
            answerer: self.answerer,
            orders,
            stock: rest(self.stock)?,
            billing: rest(self.billing)?,
            shipping: rest(self.shipping)?,
            packing: [rest(one)?, rest(other)?].concat(),
        })
    }
}

fn rest(running: Running) -> Result<Vec<Told>> {
    running.rest()?.iter().map(|line| parse(line)).collect()
}

fn parse(line: &str) -> Result<Told> {
    serde_json::from_str(line).with_context(|| format!("not an event: {line}"))
}

/// An event, as a program tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    event: String,
    order: String,
    #[serde(default)]
    partition: i32,
    #[serde(default)]
    offset: i64,
    #[serde(default)]
    reserved: bool,
    #[serde(default)]
    by: String,
}

/// What everyone told.
#[derive(Clone, Debug)]
pub struct Account {
    count: usize,
    answerer: &'static str,
    orders: Vec<Told>,
    stock: Vec<Told>,
    billing: Vec<Told>,
    shipping: Vec<Told>,
    packing: Vec<Told>,
}

/// Whether everything went as it does when nothing fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing failed: nothing is delivered twice, but what was handed back.
    Calm,
    /// The cluster was away: acknowledgements may have to be made again.
    Outage,
}

impl Account {
    /// Every order published once, answered once by the stock service, and acknowledged once for each group.
    ///
    /// # Errors
    /// Which orders are missing, doubled or unknown, and who told so.
    pub fn judge(&self, weather: Weather) -> Result<()> {
        let published = once(&self.orders, "published").context("orders")?;
        ensure!(published.len() == self.count, "{} orders were published, not {}", published.len(), self.count);
        let places: BTreeSet<_> = self.of("published").map(|told| (told.partition, told.offset)).collect();
        ensure!(places.len() == self.count, "two orders have the same place: {places:?}");
        same(&published, &once(&self.orders, "answered").context("orders")?).context("answers to orders")?;
        if let Some(other) = self.of("answered").find(|told| told.by != self.answerer) {
            bail!("order {} was answered by {:?}, not by {}", other.order, other.by, self.answerer);
        }
        let first = self.of("answered").next();
        ensure!(first.is_some_and(|told| told.reserved), "the first order was refused, with a full stock");
        for (who, told) in self.followers() {
            same(&published, &once(told, "acknowledged").context(who)?).context(who)?;
            expected(told, who, weather)?;
        }
        if weather == Weather::Calm {
            let large = published.iter().copied().filter(|order| is_large(order)).collect();
            same(&large, &once(&self.packing, "released")?).context("orders that packing hands back")?;
        }
        Ok(())
    }

    fn of(&self, event: &str) -> impl Iterator<Item = &Told> {
        self.orders.iter().filter(move |told| told.event == event)
    }

    fn followers(&self) -> [(&'static str, &[Told]); 4] {
        [("stock", &self.stock), ("billing", &self.billing), ("shipping", &self.shipping), ("packing", &self.packing)]
    }
}

/// Every third order, beginning with the second, is for three oars.
fn is_large(order: &str) -> bool {
    order.rsplit('-').next().and_then(|number| number.parse::<u32>().ok()).is_some_and(|number| number % 3 == 2)
}

/// The orders of which this is told, each once.
fn once<'a>(told: &'a [Told], event: &str) -> Result<BTreeSet<&'a str>> {
    let mut orders = BTreeSet::new();
    for told in told.iter().filter(|told| told.event == event) {
        ensure!(orders.insert(told.order.as_str()), "order {} is {event} twice", told.order);
    }
    Ok(orders)
}

fn same(expected: &BTreeSet<&str>, got: &BTreeSet<&str>) -> Result<()> {
    let missing: Vec<_> = expected.difference(got).collect();
    let unknown: Vec<_> = got.difference(expected).collect();
    ensure!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unexpected {unknown:?}");
    Ok(())
}

fn expected(told: &[Told], who: &str, weather: Weather) -> Result<()> {
    let strange = told.iter().find(|told| match (told.event.as_str(), weather) {
        ("acknowledged", _) | ("lost" | "failed", Weather::Outage) => false,
        ("released", _) => who != "packing",
        _ => true,
    });
    strange.map_or(Ok(()), |told| bail!("{who} told of order {} that it is {:?}", told.order, told.event))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(event: &str, number: i64) -> Told {
        let line = format!(r#"{{"event": "{event}", "order": "run-{number}", "offset": {number}}}"#);
        let told = parse(&line).expect("an event");
        match event {
            "answered" => Told { reserved: number != 4, by: "go".into(), ..told },
            _ => told,
        }
    }

    fn tell(event: &str) -> Vec<Told> {
        (1..=4).map(|number| told(event, number)).collect()
    }

    fn good() -> Account {
        let acknowledged = tell("acknowledged");
        Account {
            count: 4,
            answerer: "go",
            orders: [tell("published"), tell("answered")].concat(),
            stock: acknowledged.clone(),
            billing: acknowledged.clone(),
            shipping: acknowledged.clone(),
            packing: [vec![told("released", 2)], acknowledged].concat(),
        }
    }

    fn check(change: impl FnOnce(&mut Account), weather: Weather, complaint: &str) {
        let mut account = good();
        change(&mut account);
        let said = format!("{:#}", account.judge(weather).expect_err("must be refused"));
        assert!(said.contains(complaint), "{said:?} does not contain {complaint:?}");
    }

    #[test]
    fn what_adds_up_is_good() {
        good().judge(Weather::Calm).expect("good");
        let mut account = good();
        account.billing.push(told("lost", 3));
        account.packing.remove(0);
        account.judge(Weather::Outage).expect("good, after an outage");
    }

    #[test]
    fn what_does_not_add_up_is_named() {
        let calm = Weather::Calm;
        check(|a| a.orders.truncate(3), calm, "3 orders were published");
        check(|a| a.orders.truncate(7), calm, "missing [\"run-4\"]");
        check(|a| a.orders.push(told("answered", 2)), calm, "run-2 is answered twice");
        check(|a| a.orders[1].offset = 1, calm, "the same place");
        check(|a| a.orders[5].by = "java".into(), calm, "answered by \"java\"");
        check(|a| a.orders[4].reserved = false, calm, "refused");
        check(|a| a.stock.truncate(1), calm, "stock: missing");
        check(|a| a.billing.push(told("acknowledged", 1)), calm, "billing: order run-1 is acknowledged twice");
        check(|a| a.shipping.push(told("acknowledged", 9)), calm, "unexpected [\"run-9\"]");
        check(|a| a.billing.push(told("lost", 3)), calm, "it is \"lost\"");
        check(|a| a.billing.push(told("released", 3)), Weather::Outage, "it is \"released\"");
        check(|a| a.packing.truncate(4), Weather::Outage, "packing: missing");
        check(|a| a.packing.push(told("released", 3)), calm, "unexpected [\"run-3\"]");
        check(|a| drop(a.packing.remove(0)), calm, "missing [\"run-2\"]");
    }
}
