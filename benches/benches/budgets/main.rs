//! The budgets of the design that are reached so far, each as a ratio to what limits it.
//!
//! Every figure is measured beside its limit, turn by turn, in the same run, so that a busy machine slows both. It prints one
//! table and the load, and a miss is no failure: a bench is no test. `docs/performance.md` has the figures and what they mean.

mod ingest;
mod lookup;
mod serve;
mod small;
mod table;

use std::error::Error;

use provender_benches::load;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().collect();
    if let [_, command, kind, dir] = &args[..]
        && command == serve::COMMAND
    {
        return serve::serve(kind, dir.as_ref()).await;
    }
    // In the target folder: what is called temporary may be memory, and has no fsync worth the name.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    // So that the paths of sockets, which are short, can be relative.
    std::env::set_current_dir(dir.path())?;

    println!("load average before: {}", load());
    let mut rows = vec![ingest::measure().await?, small::measure().await?];
    rows.extend(lookup::measure().await?);
    table::print(&rows);
    println!("load average after:  {}", load());
    std::env::set_current_dir("/")?;
    Ok(())
}
