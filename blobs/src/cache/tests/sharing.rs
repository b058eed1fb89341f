//! Many readers of one blob, in one process and in several.

use std::thread;

use super::*;

/// Has eight threads wait for the same bytes, while their fetch is held.
fn crowd(origin: &Arc<Origin>, stream: &Arc<Stream>, range: Range<u64>) -> Vec<Result<Vec<u8>, ReadError>> {
    thread::scope(|scope| {
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(|| read(stream, range.clone()))).collect();
        {
            let mut state = origin.state.lock();
            while state.fetched.is_empty() {
                origin.changed.wait(&mut state);
            }
        }
        // The others may come before it is let go or after; there is one fetch in any case.
        origin.set(|state| state.held = false);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    })
}

#[test]
fn a_group_is_fetched_once_whoever_asks() {
    for dir in [None, Some(scratch())] {
        let cache = dir.as_ref().map_or_else(Cache::none, |dir| open(dir.path(), AMPLE));
        let origin = Origin::new(10, 4 * GROUP);
        origin.set(|state| state.held = true);
        let stream = origin.stream(&cache);
        for outcome in crowd(&origin, &stream, 5..77) {
            assert_eq!(outcome.unwrap(), origin.bytes[5..77]);
        }
        assert_eq!(origin.fetches(), 1);
        assert!(Arc::ptr_eq(&stream, &origin.stream(&cache)), "whoever opens it later shares it");
    }
}

#[test]
fn an_error_reaches_all_who_wait_and_is_not_kept() {
    let cache = Cache::none();
    let origin = Origin::new(11, 4 * GROUP);
    origin.set(|state| (state.held, state.broken) = (true, true));
    let stream = origin.stream(&cache);
    let outcomes = crowd(&origin, &stream, 5..77);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(ReadError::Fetch(_)))));
    origin.set(|state| state.broken = false);
    assert_eq!(read(&stream, 5..77).unwrap(), origin.bytes[5..77]);
}

#[test]
fn whoever_hears_of_an_error_of_anothers_asks_himself() {
    let faults: [fn(&mut State); 2] = [|state| state.broken = true, |state| state.lying = true];
    for fault in faults {
        let cache = Cache::none();
        let origin = Origin::new(15, 4 * GROUP);
        origin.set(fault);
        origin.set(|state| (state.held, state.heals) = (true, true));
        let stream = origin.stream(&cache);
        let outcomes = crowd(&origin, &stream, 5..77);
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 1, "whose fetch it was: {outcomes:?}");
        assert!(outcomes.iter().flatten().all(|bytes| *bytes == origin.bytes[5..77]));
        assert_eq!(origin.fetches(), 2);
    }
}

#[test]
fn a_fetch_that_panics_leaves_nobody_waiting() {
    struct Panics;
    impl Fetch for Panics {
        fn fetch(&self, _: Range<u64>) -> Result<Bytes, FetchError> {
            // When all others wait for it.
            thread::sleep(Duration::from_millis(100));
            std::panic::resume_unwind(Box::new("no reader may hang for this"));
        }
    }
    let cache = Cache::none();
    let origin = Origin::new(12, 4 * GROUP);
    let stream = cache.stream(origin.outboard.clone().unwrap(), Arc::new(Panics));
    let (ended, ends) = std::sync::mpsc::channel();
    for _ in 0..4 {
        let (stream, ended) = (stream.clone(), ended.clone());
        thread::spawn(move || {
            let reading = std::panic::AssertUnwindSafe(|| read(&stream, 0..1));
            ended.send(matches!(std::panic::catch_unwind(reading), Ok(Ok(_)))).unwrap();
        });
    }
    for _ in 0..4 {
        let succeeded = ends.recv_timeout(Duration::from_secs(10)).expect("nobody waits for ever");
        assert!(!succeeded);
    }
    assert!(stream.prefetch_is_idle());
}

#[test]
fn a_reader_in_order_is_fetched_ahead_of_and_each_byte_once() {
    let cache = Cache::none();
    let origin = Origin::new(13, 64 * GROUP + 1);
    origin.set(|state| state.slow = true);
    let stream = origin.stream(&cache);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for at in (0..origin.digest.size).step_by(100_000) {
                    let end = origin.digest.size.min(at + 100_000);
                    assert_eq!(read(&stream, at..end).unwrap(), origin.bytes[at as usize..end as usize]);
                }
            });
        }
    });
    assert_eq!(origin.fetched(), origin.digest.size, "{:?}", origin.state.lock().fetched);
    assert!(origin.fetches() < 40, "in fewer pieces than groups: {:?}", origin.state.lock().fetched);
}

#[test]
fn two_processes_fill_one_file() {
    let dir = scratch();
    let caches = [open(dir.path(), AMPLE), open(dir.path(), AMPLE)];
    let origins = [Origin::new(14, 40 * GROUP), Origin::new(14, 40 * GROUP)];
    let (digest, bytes) = (origins[0].digest, origins[0].bytes.clone());
    thread::scope(|scope| {
        for (number, (cache, origin)) in caches.iter().zip(&origins).enumerate() {
            let bytes = &bytes;
            scope.spawn(move || {
                let stream = origin.stream(cache);
                // From both ends, and then all of it.
                for step in 0..40 {
                    let group = if number == 0 { step } else { 39 - step };
                    let range = group * GROUP..(group + 1) * GROUP;
                    let found = read(&stream, range.clone()).unwrap();
                    assert_eq!(found, bytes[range.start as usize..range.end as usize]);
                }
            });
        }
    });
    let file = eventually("it is whole", || {
        // Whoever was in the other's way does so at the next opening.
        origins[0].stream(&caches[0]);
        caches[0].file(&digest)
    });
    assert_eq!(read_file(&file), bytes);
    // A late writer of the other one does not make it look changed.
    let before = origins[1].fetches();
    origins[1].stream(&caches[1]).keep(3, &bytes[3 * GROUP as usize..4 * GROUP as usize]);
    assert!(caches[0].file(&digest).is_some());
    assert!(caches[1].file(&digest).is_some());
    assert_eq!(origins[1].fetches(), before);
}
