//! The programs under `examples/`, in every language, against the binary: order services ask stock services written in another
//! language, groups follow, workers share, and the cluster goes away in the middle. No order is lost or comes twice.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use wherry_e2e::clients::ensure;
use wherry_e2e::mesh::Mesh;
use wherry_e2e::report;
use wherry_e2e::server::{Io, Kind, free_port};
use wherry_e2e::shop::{Cast, Play, Shop, Weather};

/// Orders of each cast: some for each partition and for each of two that pack them.
const ORDERS: usize = 12;
/// Orders around an outage, and those of them that are published before it.
const MANY: usize = 30;
const BEFORE: usize = 10;

/// A cast is seven programs: one test at a time is enough for a small machine.
static STAGE: Mutex<()> = Mutex::new(());

#[test]
fn services_of_all_languages_understand_each_other() -> Result<()> {
    let _turn = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let shops = Shop::all()?;
    let mesh = Mesh::up(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop.yaml"))?;
    for first in 0..shops.len() {
        let cast = Cast::starting_with(&shops, first);
        let account = cast.play(ORDERS, &mesh.addresses()).and_then(Play::finish);
        let judged = account.and_then(|account| account.judge(Weather::Calm));
        judged.with_context(|| format!("{}: {}", cast.title(), mesh.last_words()))?;
        report(&format!("{ORDERS} orders: {}", cast.title()));
    }
    mesh.stop()
}

#[test]
fn no_order_is_lost_or_comes_twice_when_the_cluster_goes_away() -> Result<()> {
    let _turn = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    ensure("packages")?;
    let shops = Shop::all()?;
    let mesh = Mesh::apart(Kind::Wherry(Io::IoUring), &[("orders", 6), ("reservations", 3)])?;
    for first in 0..shops.len() {
        let cast = Cast::starting_with(&shops, first);
        interrupted(&cast, &mesh).with_context(|| format!("{}: {}", cast.title(), mesh.last_words()))?;
        report(&format!("{MANY} orders and an outage: {}", cast.title()));
    }
    mesh.stop()
}

#[test]
fn a_program_that_fails_says_so() -> Result<()> {
    let _turn = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let nobody = format!("127.0.0.1:{}", free_port()?);
    for shop in Shop::all()? {
        for role in ["orders", "billing", "sailing"] {
            let ended = shop.program(role, 2, &nobody)?.finish()?;
            let said = ended.errors.trim();
            let what = format!("{role} in {}: {}, {said:?}, {:?}", shop.language().name(), ended.status, ended.lines);
            anyhow::ensure!(
                !ended.status.success() && ended.lines.is_empty(),
                "{what}: was to fail, and tell no event"
            );
            let usage = role == "sailing" && said.contains("packing");
            let within = said.strip_prefix(&format!("{role}: "));
            let within = within.and_then(|said| said.strip_suffix(&format!("(sidecar at {nobody})")));
            let sentence = within.is_some_and(|words| words.split_whitespace().count() > 2);
            anyhow::ensure!(usage || sentence, "{what}: is no sentence with role and sidecar");
            anyhow::ensure!(said.lines().count() == 1, "{what}: is more than a sentence");
        }
    }
    Ok(())
}

fn interrupted(cast: &Cast<'_>, mesh: &Mesh) -> Result<()> {
    let mut play = cast.play(MANY, &mesh.addresses())?;
    play.await_published(BEFORE)?;
    mesh.outage()?;
    play.finish()?.judge(Weather::Outage)
}
