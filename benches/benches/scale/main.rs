//! What provenance answers in a large store, and how long that takes: `scale [--count=N] [DIR]`.
//!
//! It fills DIR/N, a daemon's data folder, with N executions and as many edges (see [`fill`]), unless that was done before, then asks. Each answer is as large whatever
//! N is, so a run with another N beside it shows what the time follows. DIR stays if it is given.

mod fill;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fill::Task;
use provender_benches::load;
use provender_core::Ref;
use provender_core::name::{Name, Space};
use provender_core::search::Query;
use provender_daemon::config::{Config, Flags};
use provender_daemon::data::DataDir;
use provender_daemon::meta;
use provender_daemon::metrics::Metrics;
use provender_daemon::store::{Asked, Question, Store};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How often each question is asked; the median counts.
const ROUNDS: usize = 15;
/// How many executions are made if nothing else is said: two sizes, of which the second is ten times the first.
const COUNTS: [u64; 2] = [2_000, 20_000];

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let count = args.iter().find_map(|arg| arg.strip_prefix("--count=")).map(str::parse).transpose()?;
    let given = args.iter().find(|arg| !arg.starts_with('-'));
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let dir = given.map_or(temporary.path(), |given| Path::new(given));
    println!("load average before: {}", load());
    for count in count.map_or(COUNTS.to_vec(), |count| vec![count]) {
        measure(&dir.join(count.to_string()), count).await?;
    }
    println!("load average after: {}", load());
    Ok(())
}

async fn open(dir: &Path) -> Result<Arc<Store>> {
    let data = DataDir::open(dir, false)?;
    let flags = Flags { data: Some(dir.into()), ..Flags::default() };
    let config = Config::load(flags)?;
    let meta = meta::open(&config.meta, data.path()).await?;
    Ok(Arc::new(Store::open(meta, &config.blobs, config.aliases.clone(), Arc::new(Metrics::new()?)).await?))
}

async fn measure(dir: &Path, count: u64) -> Result<()> {
    let store = open(dir).await?;
    let marker = dir.with_extension("filled");
    if !marker.exists() {
        let began = Instant::now();
        fill::fill(&store, count).await?;
        std::fs::write(&marker, "")?;
        println!("{count} executions made in {:.1?}", began.elapsed());
    }
    println!("\n{count} executions, {count} edges:");
    let space = Space::default();
    let links = count * 3 / 10;
    let name = |name: &str| Name::new(name).map(|name| Ref::Name { name, nth: None });
    let search = async |conditions: &[&str], found: usize| -> Result<()> {
        let query = Query::parse(conditions)?;
        let mut cursor = None;
        let mut seen = 0;
        while seen < found {
            let (page, next) = store.search(&space, &query, cursor, found - seen).await?;
            seen += page.len();
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        if seen == found { Ok(()) } else { Err(format!("{conditions:?}: {seen} found").into()) }
    };
    ask("search seed=77, one of many", async || search(&["params.seed=77"], 1).await).await?;
    ask("search image=train, the newest 20", async || search(&["image=train"], 20).await).await?;
    ask("search lr=0.077 and seed=77", async || search(&["params.model.opt.lr=0.077", "params.seed=77"], 1).await)
        .await?;
    ask("search seed 100..119", async || search(&["params.seed=100..119"], 20).await).await?;
    ask("search name=users/77*", async || search(&["name=users/77"], 1).await).await?;
    let walk = async |reference: &Ref, down: bool, limit: usize, comes_to: usize| -> Result<()> {
        let mut walk = store.lineage(&space, reference, Asked { down, depth: 0, skip: 0, limit }).await?;
        let mut nodes = 0;
        while let Some(piece) = walk.next().await? {
            nodes += piece.nodes.len();
        }
        if nodes == comes_to { Ok(()) } else { Err(format!("{reference}: {nodes} nodes").into()) }
    };
    let (deep, lib) = (name(&format!("chain/{}", links - 1))?, name("lib")?);
    ask("lineage, 100 up a chain", async || walk(&deep, false, 100, 100).await).await?;
    ask("lineage, 100 down of a library", async || walk(&lib, true, 100, 100).await).await?;
    let (one, other) = (Ref::Key(Task::Experiment(77).key()), Ref::Key(Task::Experiment(78).key()));
    ask("diff of two experiments", async || {
        let told = store.diff(&space, &one, &other, 1_000).await?;
        if told.causes.is_empty() { Err("no cause".into()) } else { Ok(()) }
    })
    .await?;
    ask("why of a new experiment", async || {
        let mut spec = Task::Experiment(77).spec()?;
        spec.params.insert("seed".into(), u64::MAX.into());
        let mut explaining = store.explain(&space, vec![Question { key: "bench:new".parse()?, spec: Some(spec) }]);
        let told = explaining.next().await?.and_then(|mut told| told.pop());
        let causes = told.map_or(0, |told| told.causes.len());
        if causes == 1 { Ok(()) } else { Err(format!("{causes} causes").into()) }
    })
    .await?;
    let began = Instant::now();
    walk(&deep, false, 1_000_000, links as usize).await?;
    println!("  {:<38} {:>10.1?} once", format!("lineage, all {links} up the chain"), began.elapsed());
    Ok(())
}

async fn ask(what: &str, question: impl AsyncFn() -> Result<()>) -> Result<()> {
    question().await.map_err(|error| format!("{what}: {error}"))?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        question().await?;
        times.push(began.elapsed());
    }
    times.sort();
    let median: Duration = times[ROUNDS / 2];
    println!("  {what:<38} {median:>10.1?} median, {:.1?} most", times[ROUNDS - 1]);
    Ok(())
}
