use super::*;

fn key(name: &'static str) -> RowKey {
    RowKey { table: Table::Key, key: Bytes::from_static(name.as_bytes()) }
}

fn batch(n: u8) -> Batch {
    Batch::new(BatchId([n; 16]))
}

fn group<const N: usize>(versions: [(RowKey, Version); N]) -> Group {
    Group::new(Version(7), BTreeMap::from(versions), BTreeMap::new(), BatchId::MIN)
}

#[test]
fn tags_are_the_tables_places() {
    for (tag, table) in Table::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(table.tag()), tag);
        assert_eq!(Table::from_tag(table.tag()), Some(table));
    }
    assert_eq!(Table::from_tag(Table::ALL.len() as u8), None);
}

#[test]
fn of_two_that_deny_each_other_one_wins() {
    let (mut a, mut b) = (batch(1), batch(2));
    a.expect(key("y"), Expect::Absent).put(key("x"), "a");
    b.expect(key("x"), Expect::Absent).put(key("y"), "b");
    let mut group = group([]);
    assert_eq!(group.admit(&a), Ok(Version(8)));
    assert_eq!(group.admit(&b), Err(Refusal::Conflict(key("x"))));
    assert_eq!(group.into_writes().rows.keys().collect::<Vec<_>>(), [&key("x")]);
}

#[test]
fn a_refused_batch_leaves_nothing() {
    let mut a = batch(1);
    a.expect(key("x"), Expect::At(Version(3))).put(key("x"), "a").put(key("y"), "a").delete(key("z"));
    let mut group = group([(key("x"), Version(4))]);
    assert_eq!(group.admit(&a), Err(Refusal::Conflict(key("x"))));
    let writes = group.into_writes();
    assert_eq!(writes.head, Version(7));
    assert!(writes.rows.is_empty() && writes.ids.is_empty());
}

#[test]
fn later_batches_of_a_group_see_earlier_ones() {
    let (mut a, mut b, mut c) = (batch(1), batch(2), batch(3));
    a.expect(key("x"), Expect::At(Version(4))).put(key("x"), "a");
    b.expect(key("x"), Expect::At(Version(8))).delete(key("x"));
    c.expect(key("x"), Expect::Absent).put(key("x"), "c");
    let mut group = group([(key("x"), Version(4))]);
    for each in [&a, &b, &c] {
        group.admit(each).expect("sees the one before");
    }
    let Writes { rows, changes, .. } = group.into_writes();
    assert_eq!(rows[&key("x")], (Version(10), Some(Bytes::from_static(b"c"))));
    let feed: Vec<_> = changes.iter().map(|change| (change.version.0, change.deleted)).collect();
    assert_eq!(feed, [(8, false), (9, true), (10, false)]);
}

#[test]
fn what_was_decided_stays_decided() {
    let fates = BTreeMap::from([(BatchId([5; 16]), Fate::Committed(Version(3))), (BatchId([6; 16]), Fate::Aborted)]);
    let mut group = Group::new(Version(7), BTreeMap::new(), fates, BatchId([5; 16]));
    assert_eq!(group.admit(batch(5).put(key("x"), "late")), Err(Refusal::Decided(Fate::Committed(Version(3)))));
    assert_eq!(group.admit(batch(6).put(key("x"), "late")), Err(Refusal::Decided(Fate::Aborted)));
    assert_eq!(group.admit(batch(4).put(key("x"), "old")), Err(Refusal::Forgotten));
    assert!(group.into_writes().rows.is_empty());
}

#[test]
fn one_id_twice_in_a_group_is_one_batch() {
    let mut a = batch(1);
    a.expect(key("x"), Expect::Absent).put(key("x"), "a");
    let mut group = group([]);
    assert_eq!(group.admit(&a), Ok(Version(8)));
    assert_eq!(group.admit(&a), Ok(Version(8)));
    let writes = group.into_writes();
    assert_eq!((writes.head, writes.changes.len()), (Version(8), 1));
}

#[test]
fn an_event_is_in_the_feed_and_no_row() {
    let event = |name: &'static str| RowKey { table: Table::Event, key: Bytes::from_static(name.as_bytes()) };
    let (mut a, mut b) = (batch(1), batch(2));
    a.put(event("2"), "").put(event("1"), "").put(key("x"), "a");
    b.expect(event("1"), Expect::Absent).put(event("1"), "");
    let mut group = group([]);
    assert_eq!((group.admit(&a), group.admit(&b)), (Ok(Version(8)), Ok(Version(9))));
    let Writes { rows, changes, .. } = group.into_writes();
    assert_eq!(rows.keys().collect::<Vec<_>>(), [&key("x")]);
    let feed: Vec<_> = changes.into_iter().map(|change| (change.version.0, change.key)).collect();
    assert_eq!(feed, [(8, key("x")), (8, event("1")), (8, event("2")), (9, event("1"))]);
}
