//! What people see.

use super::*;
use TransactionVersion::V1;

fn listed(world: &World, filter: &Filter) -> Vec<String> {
    let list = world.coordinator.list(filter, world.now.wall_ms);
    list.into_iter().map(|one| one.transactional_id.to_string()).collect()
}

#[test]
fn lists_are_filtered() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    world.ask(init("b", None));
    world.add(first, 0, V1).unwrap();
    world.advance_ms(1_000);
    assert_eq!(listed(&world, &Filter::default()), ["b", "id"]);
    let ongoing = Filter { states: vec![StateName::Ongoing], ..Filter::default() };
    assert_eq!(listed(&world, &ongoing), ["id"]);
    let of = Filter { producer_ids: vec![first.0 + 1], ..Filter::default() };
    assert_eq!(listed(&world, &of), ["b"]);
    for (longer, ids) in [(999, vec!["id"]), (1_000, vec![])] {
        let filter = Filter { longer_than_ms: Some(longer), ..Filter::default() };
        assert_eq!(listed(&world, &filter), ids, "longer than {longer} ms");
    }
}

#[test]
fn what_is_not_known_is_not_described() {
    let mut world = World::new();
    assert_eq!(world.coordinator.describe("x"), Err(TransactionError::TransactionalIdNotFound));
    let first = world.init(None).unwrap();
    world.add(first, 3, V1).unwrap();
    let expected = Description {
        state: StateName::Ongoing,
        timeout_ms: TIMEOUT_MS,
        start_ms: WALL_MS,
        producer_id: first.0,
        producer_epoch: first.1,
        partitions: vec![("t".into(), 3)],
    };
    assert_eq!(world.described(), expected);
}

#[test]
fn states_have_the_names_of_the_protocol() {
    for state in StateName::ALL {
        assert_eq!(StateName::named(state.as_str()), Some(state));
    }
    assert_eq!(StateName::named("Dead"), None);
}
