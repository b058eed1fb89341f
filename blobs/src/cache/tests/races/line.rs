//! The way to an [`Origin`]: it takes its time, and may fail, or be wrong.

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use super::super::*;
use super::{Shared, Stream};

/// It becomes of each fetch what one of its fates says.
pub(super) struct Line {
    origin: Arc<Origin>,
    fates: &'static [Fate],
    told: Mutex<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Right,
    Fails,
    /// The last byte is another one.
    Lies,
    Short,
}

/// By group.
#[derive(Default)]
struct Told {
    under_way: Vec<u64>,
    right: Vec<u64>,
}

impl Line {
    pub(super) fn new(origin: &Arc<Origin>, fates: &'static [Fate]) -> Arc<Line> {
        Arc::new(Line { origin: origin.clone(), fates, told: Mutex::default() })
    }

    /// A blob that nobody reads yet.
    pub(super) fn stream(self: &Arc<Self>, shared: &Arc<Shared>) -> Arc<Stream> {
        let outboard = self.origin.outboard.clone().expect("large");
        Arc::new(Stream::new(shared.clone(), 0, outboard, self.clone()))
    }

    /// The most often that one group came, and was right.
    pub(super) fn most(&self) -> usize {
        let told = self.told.lock();
        told.right.iter().map(|group| told.right.iter().filter(|other| *other == group).count()).max().unwrap_or(0)
    }
}

impl Fetch for Line {
    fn fetch(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let groups = range.start / GROUP..range.end.div_ceil(GROUP);
        {
            let under_way = &mut self.told.lock().under_way;
            assert!(!groups.clone().any(|group| under_way.contains(&group)), "fetched by two at once: {range:?}");
            under_way.extend(groups.clone());
        }
        for _ in 0..thread_rng().gen_range(0..4) {
            thread::yield_now();
        }
        let fate = self.fates[thread_rng().gen_range(0..self.fates.len())];
        let mut told = self.told.lock();
        told.under_way.retain(|group| !groups.contains(group));
        let right = match fate {
            Fate::Right => groups,
            Fate::Lies => groups.start..groups.end - 1,
            Fate::Fails | Fate::Short => 0..0,
        };
        told.right.extend(right);
        let bytes = self.origin.bytes.slice(range.start as usize..range.end as usize);
        match fate {
            Fate::Right => Ok(bytes),
            Fate::Fails => Err(Arc::new(io::Error::other("the line is dead"))),
            Fate::Short => Ok(bytes.slice(1..)),
            Fate::Lies => {
                let mut bytes = bytes.to_vec();
                *bytes.last_mut().expect("not empty") ^= 1;
                Ok(bytes.into())
            }
        }
    }
}
