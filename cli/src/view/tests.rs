//! What is shown offline: what was kept, and nothing that was not.

use std::fs;

use provender_fuse::{ROOT, Settings, View, ViewError};

use super::*;

/// A cache, and a view that asks nobody else.
struct Offline {
    dir: tempfile::TempDir,
    cache: Cache,
    remote: Arc<Remote>,
}

impl Offline {
    fn new() -> Offline {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("c"), 1 << 30).unwrap();
        let remote = Arc::new(Remote::new("unix:/a", None, cache.clone()));
        Offline { dir, cache, remote }
    }

    /// As if the daemon had once said so.
    fn said<T: Answer>(&self, question: Question, answer: T) {
        self.cache.remember(&question.key(), &encode(&answer));
    }

    fn children(&self, after: Option<&str>) -> Question {
        self.remote.question("children").branch(Branch::Tasks).text("").page(after, PAGE)
    }

    /// The names in `/tasks`, as far as they come, and how it ended.
    fn listed(&self) -> (Vec<String>, Result<(), ViewError>) {
        let view = View::new(self.remote.clone(), Settings::default());
        let tasks = view.lookup(ROOT, b"tasks").unwrap().attributes.number;
        let folder = view.open_directory(tasks).unwrap();
        let mut names = Vec::new();
        let end = view.list(folder, 0, |item, _| {
            names.push(String::from_utf8_lossy(&item.name).into_owned());
            true
        });
        (names.split_off(2), end)
    }
}

/// How many the view asks for at once.
const PAGE: usize = 1024;

fn part(items: &[&str], more: bool) -> Page<String> {
    Page { items: items.iter().map(ToString::to_string).collect(), more }
}

#[test]
fn a_listing_that_was_partly_seen_does_not_look_whole() {
    let offline = Offline::new();
    assert!(matches!(offline.listed(), (names, Err(_)) if names.is_empty()));
    offline.said(offline.children(None), part(&["a", "b"], true));
    let (names, end) = offline.listed();
    assert_eq!(names, ["a", "b"]);
    assert!(end.unwrap_err().to_string().contains("unavailable"));
    offline.said(offline.children(Some("b")), part(&["c"], false));
    let (names, end) = offline.listed();
    assert_eq!(names, ["a", "b", "c"]);
    end.unwrap();
    // What another store said is nothing to this one.
    let other = Remote::new("unix:/b", None, offline.cache.clone());
    assert!(other.children(Branch::Tasks, None, None, PAGE).is_err());
}

#[test]
fn what_is_not_there_and_what_was_not_seen_are_two_things() {
    let offline = Offline::new();
    let name = Name::new("n").unwrap();
    let unseen = offline.remote.latest(&name).unwrap_err();
    assert!(matches!(&unseen, SourceError::Unavailable { source } if source.to_string().contains("not in the cache")));
    offline.said(offline.remote.question("latest").text("n"), None::<Entry>);
    assert_eq!(offline.remote.latest(&name).unwrap(), None);
}

#[test]
fn files_come_from_the_cache_alone_and_a_damaged_answer_is_none() {
    let offline = Offline::new();
    let small = Digest::of(b"small");
    assert!(offline.remote.open(small).is_err());
    offline.cache.keep(&small, b"small");
    assert!(matches!(offline.remote.open(small).unwrap(), Content::Bytes(bytes) if bytes == "small"));

    offline.said(offline.remote.question("schemes"), vec!["run".to_owned()]);
    assert_eq!(offline.remote.schemes().unwrap(), ["run"]);
    for shelf in fs::read_dir(offline.dir.path().join("c/answers")).unwrap() {
        for file in fs::read_dir(shelf.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }
    }
    assert!(offline.remote.schemes().is_err());
}
