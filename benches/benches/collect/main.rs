//! What collection takes: `collect [--records=N] [--blobs=M] [--postgres] [FOLDER]`.
//!
//! It fills a data folder of its own in FOLDER, or a PostgreSQL there, with N records under N/10 names that refer to M small blobs (see
//! [`fill`]), then has a daemon collect: count everything for the first time, plan and take away a tenth of the records while lookups come in
//! open loop (see [`load`]), what has come and goes after 1 % churn, and a fifth for want of room. Small stores are audited in between.

mod fill;
mod load;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fill::{OF_A_NAME, PAST, Sizes};
use load::Asked;
use provender_benches::serve::{self, Server};
use provender_benches::{Result, load as busy};
use provender_client::{ClientError, GcSummary};
use provender_core::name::Space;
use provender_daemon::config::{Config, Flags};
use provender_daemon::data::DataDir;
use provender_daemon::meta::{self, Meta};
use provender_daemon::metrics::Metrics;
use provender_daemon::store::Store;
use provender_tests::postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// As in `provenderd`, which this program also is.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The data folder, and its configuration beside it.
const DIR: &str = "data";
const CONFIG: &str = "data.toml";
/// Stores of up to so many records are audited, which takes memory and time.
const AUDITED: u64 = 2_000;
/// How long lookups are measured while nothing is collected.
const IDLE: Duration = Duration::from_secs(10);
/// The part of their capacity at which lookups come, and what their p99 may be meanwhile: a multiple of that without, or so long.
const LOAD: f64 = 0.2;
const TIMES: u32 = 2;
const AT_LEAST: Duration = Duration::from_millis(5);
/// What a run after 1 % churn may read of all rows, in percent.
const CHURN: f64 = 5.0;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().collect();
    if let [_, command, kind, dir] = &args[..]
        && command == serve::COMMAND
    {
        return serve::serve(kind, dir.as_ref()).await;
    }
    let number = |flag: &str, otherwise| {
        let given = args.iter().find_map(|arg| arg.strip_prefix(flag));
        given.map_or(Ok(otherwise), |number| number.replace([',', '_'], "").parse::<u64>())
    };
    let records = number("--records=", 2_000)?.max(OF_A_NAME * 10);
    let sizes = Sizes { records, blobs: number("--blobs=", 10 * records)?.max(3 * records) };
    let folder = args.iter().skip(1).find(|arg| !arg.starts_with('-'));
    let folder = std::path::absolute(folder.map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str))?;
    let dir = tempfile::tempdir_in(&folder)?;
    std::env::set_current_dir(dir.path())?;
    let server = args.iter().any(|arg| arg == "--postgres").then(|| tempfile::tempdir_in(&folder)).transpose()?;
    let server = server.map(postgres::Server::start_in);
    println!(
        "{sizes:?} on {}, load average before: {}\n",
        if server.is_some() { "PostgreSQL" } else { "RocksDB" },
        busy()
    );
    let meta = server
        .as_ref()
        .map_or_else(String::new, |server| format!("[meta]\nengine = \"postgres\"\nurl = \"{}\"\n", server.url()));
    Bench { sizes, meta, rows: 0 }.run().await?;
    println!("\nload average after: {}", busy());
    Ok(std::env::set_current_dir("/")?)
}

struct Bench {
    sizes: Sizes,
    /// The part of the configuration that says where the metadata is.
    meta: String,
    /// All rows, as they were counted last.
    rows: u64,
}

/// What is kept: the newest of each name.
fn latest(many: u64) -> String {
    format!("[[gc.keep]]\nlatest = {many}\n")
}

const UNLIMITED: &str = "rows_per_second = 1000000000\n";

impl Bench {
    async fn run(&mut self) -> Result<()> {
        self.write_config("", "", "")?;
        let began = Instant::now();
        let records = self.sizes.records;
        self.filled(0..records, PAST).await?;
        say("fill", began.elapsed(), &format!("{} rows", self.rows));

        let daemon = self.daemon(UNLIMITED, "").await?;
        self.timed("count all for the first time", &daemon, async || run(&daemon).await).await?;
        drop(daemon);
        self.look().await?;

        // One of each name's records goes.
        let rule = latest(OF_A_NAME - 1);
        let daemon = self.daemon(UNLIMITED, &rule).await?;
        let planned = self.timed("plan of what goes", &daemon, async || plan(&daemon).await).await?;
        drop(daemon);
        self.under_load(&rule, planned).await?;
        self.look().await?;

        let more = (records / 100).max(1);
        // As many records more of as many names.
        self.filled(records..records + more, Duration::ZERO..Duration::from_secs(60)).await?;
        let daemon = self.daemon("", &rule).await?;
        let done = self.timed("the next run after 1 % churn", &daemon, async || run(&daemon).await).await?;
        drop(daemon);
        self.look().await?;
        let part = 100.0 * done.rows as f64 / self.rows as f64;
        let (rows, verdict) = (self.rows, if part <= CHURN { "holds" } else { "MISSES" });
        println!("    {} of {rows} rows are {part:.2} %, <= {CHURN} %: {verdict}", done.rows);
        if done.executions != more {
            return Err(format!("{} executions went instead of {more}", done.executions).into());
        }
        self.without_room(done.used).await?;
        self.look().await
    }

    fn write_config(&self, top: &str, gc: &str, rules: &str) -> Result<()> {
        // What the disk has left is nobody's business here.
        let gc = format!("[gc]\nevery_seconds = 0\nreserve_bytes = 1\n{gc}");
        Ok(std::fs::write(CONFIG, format!("{top}{}{gc}{rules}", self.meta))?)
    }

    async fn daemon(&self, gc: &str, rules: &str) -> Result<Server> {
        self.write_config("", gc, rules)?;
        Server::configured(DIR, &std::fs::read_to_string(CONFIG)?).await
    }

    /// The metadata, and the store over it.
    async fn open(&self) -> Result<(Arc<dyn Meta>, Store, DataDir)> {
        let data = DataDir::open(Path::new(DIR), false)?;
        let flags = Flags { config: Some(CONFIG.into()), data: Some(DIR.into()), ..Flags::default() };
        let config = Config::load(flags)?;
        let meta = meta::open(&config.meta, data.path()).await?;
        let store = Store::open(meta.clone(), &config.blobs, config.aliases, Arc::new(Metrics::new()?)).await?;
        Ok((meta, store, data))
    }

    async fn filled(&mut self, which: std::ops::Range<u64>, past: std::ops::Range<Duration>) -> Result<()> {
        let (meta, store, _data) = self.open().await?;
        // The first blob makes the space known.
        store.put_small(&Space::default(), vec!["first".into()]).await?;
        self.rows = fill::fill(&meta, self.sizes, which, past).await?;
        Ok(())
    }

    /// Looks at all rows.
    async fn look(&mut self) -> Result<()> {
        let (meta, store, _data) = self.open().await?;
        self.rows = fill::rows(&*meta).await?;
        if self.sizes.records <= AUDITED {
            match store.audit().await? {
                wrong if wrong.is_empty() => {}
                wrong => return Err(format!("{} things are wrong: {}", wrong.len(), wrong[0]).into()),
            }
        }
        Ok(())
    }

    /// Says how long it took, and what the daemon took for it.
    async fn timed(
        &self,
        what: &str,
        daemon: &Server,
        work: impl AsyncFnOnce() -> Result<GcSummary>,
    ) -> Result<GcSummary> {
        let (before, processor, began) = (daemon.settled()?, daemon.processor()?, Instant::now());
        let done = work().await?;
        let took = began.elapsed();
        let (memory, processor) = (daemon.peak(), daemon.processor()? - processor);
        say(what, took, &told(&done, took));
        println!(
            "    memory at most {} MiB ({} before), {processor:.1?} of processor time",
            memory >> 20,
            before >> 20
        );
        Ok(done)
    }

    /// Takes the planned ones away at the usual rate, while lookups come.
    async fn under_load(&self, rule: &str, planned: GcSummary) -> Result<()> {
        let daemon = self.daemon("", rule).await?;
        // The newer half, so that of the rest nothing was used lately.
        let (client, asked) = (&daemon.client, Asked(self.sizes.names() * OF_A_NAME / 2, self.sizes.records));
        load::capacity(client, asked).await?;
        let capacity = load::capacity(client, asked).await?;
        let rate = LOAD * capacity;
        let nothing = async {
            tokio::time::sleep(IDLE).await;
            Ok(())
        };
        let (idle, ()) = load::open_loop(client, asked, rate, nothing).await?;
        let work = self.timed("the run, with lookups meanwhile", &daemon, async || run(&daemon).await);
        let (during, done) = load::open_loop(client, asked, rate, work).await?;
        let bound = (idle.part(990) * TIMES).max(AT_LEAST);
        println!("lookups, {rate:.0} a second of {capacity:.0} that can be:");
        for (what, of) in [("idle", &idle), ("during the run", &during)] {
            let [median, p99, most] = [500, 990, 1_000].map(|part| of.part(part));
            println!("    {what:<16} p50 {median:>9.1?}, p99 {p99:>9.1?}, most {most:>9.1?} of {}", of.many());
        }
        let verdict = if during.part(990) <= bound { "holds" } else { "MISSES" };
        println!(
            "    p99 is {:.2} times the idle one, <= {bound:.1?}: {verdict}",
            during.part(990).as_secs_f64() / idle.part(990).as_secs_f64()
        );
        match (done.executions, done.frees) == (planned.executions, planned.frees) {
            true => Ok(()),
            false => Err(format!("planned was {planned:?}, and it came to {done:?}").into()),
        }
    }

    /// A daemon that starts with too much stored collects by itself.
    async fn without_room(&self, used: u64) -> Result<()> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let quota = format!("{UNLIMITED}quota_bytes = {}\n", used * 94 / 100);
        self.write_config(&format!("metrics_listen = \"{address}\"\n"), &quota, "")?;
        let began = Instant::now();
        let daemon = Server::configured(DIR, &std::fs::read_to_string(CONFIG)?).await?;
        let mut done = run(&daemon).await?;
        let (took, metrics) = (began.elapsed(), metrics(&address).await?);
        let metric = |name: &str| -> u64 {
            let of = metrics.lines().filter(|line| line.starts_with(name));
            of.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        done.executions = metric("provender_executions_collected_total");
        (done.records, done.rows) = (done.executions, metric("provender_collection_rows_total"));
        (done.blobs, done.bytes) =
            (metric("provender_blobs_collected_total"), metric("provender_blob_bytes_collected_total"));
        say("a fifth goes for want of room", took, &told(&done, took));
        println!("    memory at most {} MiB, {:.1?} of processor time", daemon.peak() >> 20, daemon.processor()?);
        match done.used <= used * 94 / 100 * 85 / 100 {
            true => Ok(()),
            false => Err(format!("{} bytes are left of {used}", done.used).into()),
        }
    }
}

fn say(what: &str, took: Duration, more: &str) {
    println!("{what:<34} {took:>9.1?}  {more}; load {}", busy());
}

fn told(done: &GcSummary, took: Duration) -> String {
    let GcSummary { executions, rows, blobs, bytes, .. } = done;
    let rate = *rows as f64 / took.as_secs_f64();
    format!("{executions} executions, {blobs} blobs of {bytes} bytes, {rows} rows, {rate:.0} a second")
}

async fn run(daemon: &Server) -> Result<GcSummary> {
    Ok(daemon.client.run_gc(|_| Ok::<_, ClientError>(())).await?)
}

async fn plan(daemon: &Server) -> Result<GcSummary> {
    Ok(daemon.client.plan_gc(|_| Ok::<_, ClientError>(())).await?)
}

async fn metrics(address: &str) -> Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
