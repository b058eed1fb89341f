//! A name under which thousands of executions stand is listed in pages while others come, before and after what was listed, and some become void.
//!
//! What stood from before the listing to after it is listed exactly once; nothing is listed that never stood there; and from each cookie
//! that was given, the names that followed it follow it again.

use std::collections::BTreeSet;
use std::fs::File;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use provender_client::{Begin, Begun, Client, ClientError, Invalidate, Remote};
use provender_core::execution::{Executor, Exit, Outcome};
use provender_core::name::{Name, Space};
use provender_core::provenance::Branch;
use provender_core::{ExecutionId, Spec, TaskKey};
use provender_tests::child::soak;
use rustix::fs::{RawDir, SeekFrom, seek};

use super::Site;

const COUNT: usize = 4_000;
/// How many in a soak.
const MANY: usize = 20_000;
/// Each so many-th is made under another name first, and comes to this one later, to a place in the middle.
const ELSEWHERE: usize = 40;
/// After so many calls of `getdents`, something changes.
const CALLS: usize = 2;
/// How much one call gives.
const ROOM: usize = 8 << 10;
/// How many names are compared after going back.
const COMPARED: usize = 2_500;

fn key(n: usize) -> TaskKey {
    let id = provender_core::Digest::of(&n.to_be_bytes()).hex();
    TaskKey::new("test", &id).unwrap()
}

/// Has a key stand under a name: by a success, or by a hit.
async fn stands(client: &Client, n: usize, name: &str) -> Result<(), ClientError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).unwrap();
    let execution = ExecutionId(id);
    let begin = Begin {
        key: &key(n),
        spec: &Spec::new(Name::new(name).unwrap()),
        execution,
        executor: &Executor::default(),
        ttl: Duration::from_secs(600),
        wait: true,
        check: false,
        remarks: Default::default(),
    };
    match client.begin(begin, |_| {}).await? {
        Begun::Lease(_) => {
            let outcome = Outcome { exit: Some(Exit::Code(0)), ..Outcome::default() };
            client.commit(execution, &outcome).await.map(drop)
        }
        Begun::Hit(..) => Ok(()),
        other => panic!("{other:?}"),
    }
}

/// All folders of the name, as the daemon tells them without any mount.
async fn told(client: &Client) -> BTreeSet<String> {
    let (name, mut all) = (Name::new("n").unwrap(), BTreeSet::new());
    loop {
        let after = all.last().cloned();
        let (page, more) = client.folders(Branch::Tasks, &name, after.as_deref(), 1_000).await.unwrap();
        all.extend(page);
        if !more {
            return all;
        }
    }
}

/// An open directory, and what it has listed: each name, with the cookie that comes before it.
struct Listing {
    directory: File,
    listed: Vec<(u64, String)>,
    cookie: u64,
}

impl Listing {
    fn new(point: &Path) -> Listing {
        Listing { directory: File::open(point.join("tasks/n")).unwrap(), listed: Vec::new(), cookie: 0 }
    }

    /// One call; whether there was anything left.
    fn go_on(&mut self) -> bool {
        let mut room = [MaybeUninit::uninit(); ROOM];
        let mut directory = RawDir::new(&self.directory, &mut room);
        let before = self.listed.len();
        while let Some(entry) = directory.next() {
            let entry = entry.unwrap();
            self.listed.push((self.cookie, entry.file_name().to_str().unwrap().to_owned()));
            self.cookie = entry.next_entry_cookie();
            if directory.is_buffer_empty() {
                break;
            }
        }
        self.listed.len() > before
    }

    /// The names that follow a place that was listed, listed again.
    fn again(&self, place: usize) -> Vec<String> {
        let (cookie, _) = self.listed[place];
        seek(&self.directory, SeekFrom::Start(cookie)).unwrap();
        let directory = self.directory.try_clone().unwrap();
        let mut again = Listing { directory, listed: Vec::new(), cookie };
        while again.listed.len() < COMPARED && again.go_on() {}
        again.listed.truncate(COMPARED);
        again.listed.into_iter().map(|(_, name)| name).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowded_name_is_listed_once_while_others_come_and_some_become_void() {
    let site = Site::new();
    let remote = Remote::find(Some(&site.world.daemon.remote())).unwrap();
    let client = &Client::connect(&remote, Space::default()).await.unwrap();
    let under = |n: usize| if n.is_multiple_of(ELSEWHERE) { "elsewhere" } else { "n" };
    let count = if soak() { MANY } else { COUNT };
    let made = stream::iter(0..count).map(|n| stands(client, n, under(n))).buffer_unordered(512);
    made.try_for_each(async |()| Ok(())).await.unwrap();
    let before = told(client).await;
    assert_eq!(before.len(), count - count / ELSEWHERE);

    let mut listings = site.both().map(|point| Listing::new(&point));
    let (mut rounds, mut going) = (0, true);
    while going {
        going = false;
        for listing in &mut listings {
            going |= (0..CALLS).fold(true, |going, _| going && listing.go_on());
        }
        // One comes at the end and two in the middle; one of those, and two that stood there from the beginning, are evicted or void.
        stands(client, count + rounds, "n").await.unwrap();
        let middle = |n: usize| n * 37 % (count / ELSEWHERE) * ELSEWHERE;
        for n in [2 * rounds, 2 * rounds + 1] {
            stands(client, middle(n), "n").await.unwrap();
        }
        for (n, evict) in [(middle(2 * rounds), true), (41 * rounds + 1, true), (43 * rounds + 2, false)] {
            let executor = Executor::default();
            let what =
                Invalidate { keys: vec![key(n)], evict, by: executor, reason: "a test".into(), ..Default::default() };
            client.invalidate(what, |_| Ok::<_, ClientError>(())).await.unwrap();
        }
        rounds += 1;
    }
    let after = told(client).await;
    let stood: BTreeSet<_> = before.intersection(&after).collect();
    eprintln!("{} stood throughout, {} at the end, {rounds} rounds", stood.len(), after.len());
    assert!(rounds > 10 && after.len() > stood.len(), "others came");
    for listing in listings {
        let names = listing.listed.iter().map(|(_, name)| name.clone());
        let listed: BTreeSet<_> = names.clone().collect();
        assert_eq!(listed.len(), listing.listed.len(), "nothing twice");
        let missing: Vec<_> = stood.iter().filter(|name| !listed.contains(**name)).collect();
        assert!(missing.is_empty(), "{} are missing, such as {}", missing.len(), missing[0]);
        let others = [".", "..", "latest"];
        let strange: Vec<_> = names
            .filter(|name| !before.contains(name) && !after.contains(name) && !others.contains(&name.as_str()))
            .collect();
        assert!(strange.is_empty(), "never stood there: {strange:?}");
        for place in [listing.listed.len() / 2, 3, 2 * listing.listed.len() / 3, 9 * listing.listed.len() / 10, 0] {
            let there = |name: &String| stood.contains(name);
            let again: Vec<_> = listing.again(place).into_iter().filter(there).collect();
            let first: Vec<_> =
                listing.listed[place..].iter().map(|(_, name)| name.clone()).filter(there).take(again.len()).collect();
            let apart = again.iter().zip(&first).position(|(again, first)| again != first);
            let apart =
                apart.map(|at| (at, &again[at..(at + 3).min(again.len())], &first[at..(at + 3).min(first.len())]));
            assert!(apart.is_none() && !first.is_empty(), "from place {place} on, apart at {apart:?}");
        }
    }
}
