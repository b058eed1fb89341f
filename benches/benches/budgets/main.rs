//! The budgets of the design that are reached so far, each as a ratio to what limits it.
//!
//! Every figure is measured beside its limit, turn by turn, in the same run, so that a busy machine slows both. It prints one
//! table and the load, and a miss is no failure: a bench is no test. `docs/performance.md` has the figures and what they mean.

mod batch;
mod bucket;
mod ingest;
mod lookup;
mod memory;
mod mount;
mod small;
mod start;

use std::error::Error;
use std::process::ExitCode;

use provender_benches::{load, serve, table};

/// As in `provenderd`, which this program also is.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == provender_fuse::WATCHDOG_ARG) {
        return Ok(provender_fuse::watchdog_main(words));
    }
    run().await?;
    Ok(ExitCode::SUCCESS)
}

async fn run() -> Result<()> {
    let args: Vec<_> = std::env::args().collect();
    if let [_, command, point] = &args[..]
        && command == mount::COMMAND
    {
        return mount::serve(point.as_ref());
    }
    if let [_, command, kind, dir] = &args[..]
        && command == serve::COMMAND
    {
        return serve::serve(kind, dir.as_ref()).await;
    }
    // A folder to measure in can be given. Else the target folder: what is called temporary may be memory, where to sync is
    // nothing.
    let folder = args.iter().skip(1).find(|arg| !arg.starts_with('-'));
    let folder = std::path::absolute(folder.map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str))?;
    let dir = tempfile::tempdir_in(&folder)?;
    // So that the paths of sockets, which are short, can be relative.
    std::env::set_current_dir(dir.path())?;

    println!("in {}, load average before: {}\n", folder.display(), load());
    // `--only=WORD` leaves out the rest.
    let only = args.iter().find_map(|arg| arg.strip_prefix("--only="));
    let wanted = |word: &str| only.is_none_or(|only| only == word);
    table::head();
    if wanted("ingest") {
        table::print(&ingest::measure().await?);
    }
    if wanted("handover") {
        table::print(&ingest::measure_handover().await?);
    }
    if wanted("memory") {
        memory::measure().await?;
    }
    if wanted("start") {
        start::measure().await?;
    }
    if wanted("small") {
        table::print(&small::measure().await?);
    }
    for callers in lookup::CALLERS.into_iter().filter(|_| wanted("lookup")) {
        table::print(&lookup::measure(callers).await?);
    }
    for engine in [batch::Engine::Rocks, batch::Engine::Postgres].into_iter().filter(|_| wanted("batch")) {
        batch::measure(engine, dir.path()).await?.iter().for_each(table::print);
    }
    if wanted("bucket") {
        bucket::measure().await?.iter().for_each(table::print);
    }
    if wanted("mount") {
        mount::measure().await?;
    }
    if wanted("wide") {
        mount::measure_wide().await?;
    }
    println!(
        "\nRates are medians of the rounds, ratios medians of the rounds' ratios; the first limit named is the one that counts."
    );
    println!("load average after: {}", load());
    std::env::set_current_dir("/")?;
    Ok(())
}
