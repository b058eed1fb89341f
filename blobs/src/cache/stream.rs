//! Reading a blob of which parts may be missing.
//!
//! Owns [`Stream`]. Invariants: no byte is handed out, or written, that was not held against the outboard; at any time one thread fetches a
//! group, and all others who want it get what that one gets; an error is not kept, and each of them tries once himself; a waiter waits no longer than it
//! says, and no longer than one [`Fetch`] takes. Writing to the folder comes after the answer, and its failure is nobody's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ahead::Ahead;
use super::part::{Finished, Look, Part};
use super::sync::{Condvar, Mutex};
use super::workers::Job;
use super::{Fetch, ReadError, Shared};
use crate::Outboard;

/// How many bytes a reader waits for at once, if it asks for so many.
const AT_ONCE: u64 = 4 << 20;
/// How many damaged groups of a file are mended at once.
const MENDED: usize = 8;

/// A large blob, read by any number of threads at once.
pub struct Stream {
    shared: Arc<Shared>,
    id: u64,
    outboard: Outboard,
    fetch: Arc<dyn Fetch>,
    part: Mutex<Part>,
    finishing: Mutex<()>,
    ahead: Mutex<Ahead>,
    flights: Mutex<HashMap<u64, Arc<Flight>>>,
}

type Landed = Result<Bytes, ReadError>;

/// A group on its way.
#[derive(Default)]
struct Flight {
    landed: Mutex<Option<Landed>>,
    is_down: Condvar,
}

impl Flight {
    fn land(&self, landed: Landed) {
        self.landed.lock().get_or_insert(landed);
        self.is_down.notify_all();
    }

    fn wait(&self, patience: Duration) -> Landed {
        let mut landed = self.landed.lock();
        self.is_down.wait_while_for(&mut landed, |landed| landed.is_none(), patience);
        landed.clone().unwrap_or(Err(ReadError::TimedOut))
    }
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, id: u64, outboard: Outboard, fetch: Arc<dyn Fetch>) -> Stream {
        let digest = *outboard.digest();
        let groups = outboard.covering(&(0..digest.size)).end;
        let ahead = Mutex::new(Ahead::new(outboard.place(&(0..1)).end, groups));
        let part = Mutex::new(Part::new(digest));
        Stream { shared, id, outboard, fetch, part, finishing: Mutex::new(()), ahead, flights: Mutex::default() }
    }

    /// Reads some bytes from `offset` on into `buf`, and says how many; 0 only at the end. Waits at most `patience` for what others
    /// fetch.
    pub fn read_at(self: &Arc<Self>, buf: &mut [u8], offset: u64, patience: Duration) -> Result<usize, ReadError> {
        let size = self.outboard.digest().size;
        if offset >= size || buf.is_empty() {
            return Ok(0);
        }
        let group = self.outboard.covering(&(offset..offset + 1)).start;
        for run in self.ahead.lock().read(group) {
            self.shared.workers.send(Job::Ahead(Arc::downgrade(self), run));
        }
        let end = self.outboard.covering(&(offset..size.min(offset.saturating_add(buf.len() as u64)))).end;
        let bytes = self.group(group, end, patience)?;
        let rest = &bytes[(offset - self.outboard.place(&(group..group + 1)).start) as usize..];
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    /// A group, and if it has to be fetched, those up to `end` with it that have to be too: they are read next.
    fn group(self: &Arc<Self>, group: u64, end: u64, patience: Duration) -> Landed {
        let (until, mut tried) = (Instant::now() + patience, false);
        loop {
            if let Some(bytes) = self.shared.recent.get((self.id, group)) {
                return Ok(bytes);
            }
            match self.claim(group..end.min(group + self.at_once())) {
                Claimed::Ours(claim) => {
                    let flight = claim.flights[0].clone();
                    claim.settle();
                    return flight.wait(Duration::ZERO);
                }
                Claimed::Others(flight) => match flight.wait(until.saturating_duration_since(Instant::now())) {
                    // Who fetched it may have had less time than we have, or a worse line.
                    Err(ReadError::Fetch(_) | ReadError::Wrong { .. }) if !tried && Instant::now() < until => {
                        tried = true
                    }
                    landed => return landed,
                },
                // Since we looked.
                Claimed::AtHand => {}
            }
        }
    }

    /// Has groups at hand, as far as nobody else is about to.
    pub(super) fn prefetch(self: &Arc<Self>, groups: Range<u64>) {
        let mut at = groups.start;
        while at < groups.end {
            let Claimed::Ours(claim) = self.claim(at..groups.end) else {
                at += 1;
                continue;
            };
            at = claim.run.end;
            let went = claim.settle();
            self.ahead.lock().went(went);
            if !went {
                return;
            }
        }
    }

    /// How many groups are asked for in one piece by who waits for the first.
    fn at_once(&self) -> u64 {
        (AT_ONCE / self.outboard.place(&(0..1)).end).max(1)
    }

    /// Claims the first of these groups, which is one at least, and with it those after it as far as one fetch has them: what is
    /// kept in the folder comes from there, one by one.
    fn claim(self: &Arc<Self>, groups: Range<u64>) -> Claimed<'_> {
        let look = self.look();
        let is_kept = |group| look.as_ref().is_some_and(|look| look.may_have(&self.outboard, group));
        let mut all = self.flights.lock();
        if let Some(flight) = all.get(&groups.start) {
            return Claimed::Others(flight.clone());
        }
        if self.shared.recent.has((self.id, groups.start)) {
            return Claimed::AtHand;
        }
        let (mut run, mut flights) = (groups.start..groups.start, Vec::new());
        let ends = if is_kept(groups.start) { groups.start + 1 } else { groups.end };
        while run.end < ends {
            let Entry::Vacant(free) = all.entry(run.end) else { break };
            if !flights.is_empty() && (self.shared.recent.has((self.id, run.end)) || is_kept(run.end)) {
                break;
            }
            flights.push(free.insert(Arc::default()).clone());
            run.end += 1;
        }
        Claimed::Ours(Claim { stream: self, run, flights })
    }

    /// Finds out whether the file is whole; if so, it is known to be from now on.
    pub(super) fn finish(&self) {
        let Some(place) = self.place() else { return };
        // One after the other, since each looks for changes of the file, which the other may make.
        let _one = self.finishing.lock();
        // What was damaged meanwhile is mended if it is still at hand, else whoever reads it next does so.
        for _ in 0..MENDED {
            let Some(finishing) = self.part.lock().finishing(&place.folder) else { return };
            let wrong = match finishing.finish(&place.folder, &self.outboard) {
                Ok(Finished::Signed) => return,
                Ok(Finished::Changed) => continue,
                Ok(Finished::Wrong(wrong)) => wrong,
                Err(error) => return place.room.settle(&place.folder, Err(error)),
            };
            let offset = self.outboard.place(&(wrong..wrong + 1)).start;
            let mut part = self.part.lock();
            part.doubt(offset);
            let Some(bytes) = self.shared.recent.get((self.id, wrong)) else { return };
            let outcome = part.write(&place.folder, offset, &bytes);
            drop(part);
            place.room.settle(&place.folder, outcome);
        }
    }

    /// A group is on its way no more, unless another flight of it began.
    fn ended(&self, group: u64, flight: &Arc<Flight>) {
        if let Entry::Occupied(found) = self.flights.lock().entry(group)
            && Arc::ptr_eq(found.get(), flight)
        {
            found.remove();
        }
    }

    fn place(&self) -> Option<&super::Place> {
        self.shared.place.as_ref()
    }

    fn look(&self) -> Option<Look> {
        self.part.lock().look(&self.place()?.folder)
    }

    /// The bytes of groups that follow each other, each with its verdict.
    fn fetched(&self, run: &Range<u64>) -> Result<Vec<Landed>, ReadError> {
        let digest = *self.outboard.digest();
        let range = self.outboard.place(run);
        let bytes = self.fetch.fetch(range.clone()).map_err(ReadError::Fetch)?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(ReadError::Wrong { digest, range });
        }
        let check = |group| {
            let place = self.outboard.place(&(group..group + 1));
            // A copy, so that one group in memory does not hold all that came with it.
            let part = &bytes[(place.start - range.start) as usize..(place.end - range.start) as usize];
            let bytes = if part.len() == bytes.len() { bytes.clone() } else { Bytes::copy_from_slice(part) };
            match self.outboard.is_right(group, std::slice::from_ref(&bytes)) {
                true => Ok(bytes),
                false => Err(ReadError::Wrong { digest, range: place }),
            }
        };
        Ok(run.clone().map(check).collect())
    }

    /// Writes a group to the folder, if there is room for the blob.
    pub(super) fn keep(self: &Arc<Self>, group: u64, bytes: &[u8]) {
        let Some(place) = self.place().filter(|place| place.room.is_for(self.outboard.digest().size)) else { return };
        let offset = self.outboard.place(&(group..group + 1)).start;
        let (outcome, is_solid) = {
            let mut part = self.part.lock();
            let outcome = part.write(&place.folder, offset, bytes);
            let is_solid = matches!(outcome, Ok(1..)) && part.is_solid();
            (outcome, is_solid)
        };
        place.room.settle(&place.folder, outcome);
        if is_solid {
            self.shared.workers.send(Job::Finish(self.clone()));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.recent.forget(self.id);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?})", self.outboard)
    }
}

/// Whose a group is.
enum Claimed<'a> {
    Ours(Claim<'a>),
    Others(Arc<Flight>),
    /// It is in memory.
    AtHand,
}

/// The right, and the duty, to have some groups land.
struct Claim<'a> {
    stream: &'a Arc<Stream>,
    run: Range<u64>,
    flights: Vec<Arc<Flight>>,
}

impl Claim<'_> {
    /// Has them land: one group from where it is kept, else all by one fetch. Says whether that went well.
    fn settle(self) -> bool {
        let stream = self.stream;
        if self.run.end - self.run.start == 1 {
            let group = self.run.start;
            if let Some(bytes) = stream.look().and_then(|look| look.group(&stream.outboard, group)) {
                self.land(0, Ok(bytes));
                return true;
            }
        }
        match stream.fetched(&self.run) {
            Ok(all) => {
                let is_right = all.iter().all(Result::is_ok);
                for (number, landed) in all.iter().enumerate() {
                    self.land(number, landed.clone());
                }
                // Only then, so that nobody waits for the disk; but before the claim ends, so that nobody fetches it again.
                for (group, bytes) in self.run.clone().zip(all.iter().flatten()).filter(|_| is_right) {
                    stream.keep(group, bytes);
                }
                is_right
            }
            Err(error) => {
                (0..self.flights.len()).for_each(|number| self.land(number, Err(error.clone())));
                false
            }
        }
    }

    fn land(&self, number: usize, landed: Landed) {
        let (group, flight) = (self.run.start + number as u64, &self.flights[number]);
        match &landed {
            Ok(bytes) => self.stream.shared.recent.put((self.stream.id, group), bytes.clone()),
            // First, so that who hears of it and tries himself does not hear of it again.
            Err(_) => self.stream.ended(group, flight),
        }
        flight.land(landed);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        for (group, flight) in self.run.clone().zip(&self.flights) {
            self.stream.ended(group, flight);
            // Of those that landed nothing changes.
            flight.land(Err(ReadError::Abandoned { digest: *self.stream.outboard.digest() }));
        }
    }
}

#[cfg(test)]
impl Stream {
    /// Whether no group is on its way.
    pub(super) fn prefetch_is_idle(&self) -> bool {
        self.flights.lock().is_empty()
    }

    /// Claims a group and has nothing land, as a thread does that panics.
    pub(super) fn give_up(self: &Arc<Self>, group: u64) {
        drop(self.claim(group..group + 1));
    }
}
