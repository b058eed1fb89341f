//! The arguments.

mod upkeep;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand};
use provender_core::Ref;
use provender_core::key::TaskKey;
use provender_core::name::Name;

pub(crate) use upkeep::{Admin, Backup, By, Du, Gc, Pin, Unpin, Verify};

/// Run commands once, know that they succeeded, find what they made.
#[derive(Debug, Parser)]
#[command(
    name = "provender",
    version,
    about,
    max_term_width = 100,
    after_help = "A REF is a NAME, NAME@N (the N-th newest record), a SCHEME:ID key, name:TEXT, exec:ID, blob:HEX or tree:HEX.\n\nExit codes: 0 yes; 1 no, or invalid input; 2 usage; 125 no daemon, or a fault of provender's. `run` gives the command's own."
)]
pub(crate) struct Args {
    /// Where the daemon is: unix:PATH, http://HOST:PORT or https://HOST:PORT
    #[arg(long, global = true, env = "PROVENDER_REMOTE", value_name = "URL")]
    pub(crate) remote: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing but results and errors; `run` keeps the command's output without showing it
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command once for its inputs; if that was done before, restore what it made
    ///
    /// Standard input is no input: the command sees it only if it is a terminal, else it is empty.
    Run(Run),
    /// Run the tasks of an à la mode file, or register them
    #[command(subcommand)]
    Dag(Dag),
    /// Say whether keys have succeeded
    Status(Status),
    /// Show one record: what was done, by whom, from what
    Show(Show),
    /// Show what something was made from, or what was made from it
    ///
    /// A tree: below each task what it was made from, called as the task calls it (INPUT: TASK), with the end and the key of each. A task
    /// is shown once, then as (above). What nobody is known to have made is a source. With --down, below each task is what was made from it (TASK (as INPUT)).
    Lineage(Lineage),
    /// Show what differs between two executions, and where that began
    ///
    /// The causes come first: the fields and inputs in which a task parts from its counterpart, however many steps up from what is asked for.
    /// Then what both measured, how they are labelled, and their outputs, path by path. Two trees or two blobs can be compared as well.
    Diff(Diff),
    /// Say why a key is not SUCCEEDED, and in what it differs from the nearest success under its name
    ///
    /// First what happened to it: never run, failed, invalidated and so on. Then the nearest success and what differs from it, as `diff` tells it.
    /// A name stands for what was done last under it. What is about to run is explained by `run --why` and `dag run --why`.
    Why(Why),
    /// Print the output of a run
    Logs(Logs),
    /// List the executions of a name, newest first
    History(History),
    /// List names
    Ls(Ls),
    /// Make records void, so that the next run runs: by key, by name, and all that was made from them
    ///
    /// A NAME means the keys whose records stand under exactly that name, the older ones as well, and those that are being run under it
    /// now. Executions and what they made stay in the history. Who is running an invalidated key loses its lease, and its command is
    /// stopped. Exit code 1: there was nothing that is INVALIDATED now.
    Invalidate(Invalidate),
    /// Declare that records are not to be kept: by key, by name
    ///
    /// Their keys say EVICTED, and the next run runs. Unlike `invalidate` it says nothing against what was made: what was made from it stays
    /// as it is, and who is running the key goes on. Exit code 1: there was nothing that is EVICTED now.
    Evict(Evict),
    /// Print each change of a verdict as it happens: of keys, of what runs under names, or of everything
    ///
    /// It goes on until it is interrupted, also across restarts of the daemon, and leaves nothing out; after a break something may come twice. Of
    /// keys, the verdicts that they have now come first.
    Watch(Watch),
    /// Label an execution, or put a note to it, also long after it ended
    Annotate(Annotate),
    /// Store a file or folder
    Put(Put),
    /// Restore a file or folder
    Get(Get),
    /// Print a file
    Cat(Cat),
    /// Show the store as files, read-only, on any machine that reaches the daemon
    Mount(Mount),
    /// Take such a view away
    Umount(Umount),
    /// Look whether all blobs are there and right
    ///
    /// What is missing or damaged is LOST from then on: it is served to nobody, and the next run makes it anew. Exits 1 if anything is.
    Verify(Verify),
    /// Keep something from collection: a key's record, the records under names, or bytes
    ///
    /// The same person's pin of the same thing is one: pinned again, it has another reason and end. Bytes have to be there; a key or name need not, and
    /// what comes to stand under it is kept.
    Pin(Pin),
    /// Take a pin away
    ///
    /// What it kept is collected as anything else from then on. Exit code 1: there was none.
    Unpin(Unpin),
    /// List what is pinned, by whom, until when and why
    Pins,
    /// Collect: take away what the rules do not keep, and what there is no room for
    ///
    /// The daemon does so by itself now and then. What was used lately, is pinned, or is being run stays. Bytes go once nothing has
    /// referred to them for as long as what was used lately is protected. It is carried out to its end also if it is interrupted here.
    Gc(Gc),
    /// Show what the store holds: by name, by who ran it, or by age
    ///
    /// Of each part the bytes that its executions refer to, and of these its own, which nothing outside of it refers to: what collecting it would free.
    /// What several parts share is in the bytes of each, and in nobody's own.
    Du(Du),
    /// Keep the store: backups
    #[command(subcommand)]
    Admin(Admin),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// What the task is called
    #[arg(long, value_parser = name)]
    pub(crate) name: Name,
    /// Use this key instead of one derived from command, inputs, outputs and variables
    #[arg(long, value_parser = key)]
    pub(crate) key: Option<TaskKey>,
    /// A file or folder that the command reads, or LABEL=REF to check something out at $PROVENDER_IN_LABEL
    #[arg(long = "in", value_name = "PATH|LABEL=REF")]
    pub(crate) inputs: Vec<OsString>,
    /// A file or folder that the command makes, relative to the working folder
    #[arg(long = "out", value_name = "PATH")]
    pub(crate) outputs: Vec<OsString>,
    /// A variable whose value counts as an input
    #[arg(long, value_name = "VAR", value_parser = OsStringValueParser::new().try_map(variable))]
    pub(crate) env: Vec<OsString>,
    /// The same, with a value that is hashed and never stored
    #[arg(long, value_name = "VAR", value_parser = OsStringValueParser::new().try_map(variable))]
    pub(crate) secret_env: Vec<OsString>,
    /// Say first why it has to run: what differs from the nearest success under the name
    #[arg(long)]
    pub(crate) why: bool,
    #[command(flatten)]
    pub(crate) remarks: Remarks,
    /// If provender fails, run the command all the same and give its exit code
    #[arg(long)]
    pub(crate) best_effort: bool,
    /// Run it although it has succeeded, and say at which paths it makes something else than the record
    ///
    /// The record stays the answer, and what stands at each --out afterwards is what it holds, whatever the command makes now. Exit code 0: the
    /// same again; 1: something else. Without a record this is an ordinary run.
    #[arg(long)]
    pub(crate) check: bool,
    /// Seconds after which others take over if this provender is not heard of (1 to 3600)
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "15")]
    pub(crate) ttl: Duration,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dag {
    /// Run what has not succeeded
    ///
    /// Each command runs by `sh -c` in a scratch folder with `inputs/DEPENDENCY/`, an empty `output/`, and links to all entries of the
    /// source folder. What it leaves in `output/` is what the task made.
    Run(DagRun),
    /// Register what the tasks are, without running them
    Import(DagImport),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DagRun {
    /// The file, as à la mode's `save` writes it
    pub(crate) file: PathBuf,
    /// The folder whose entries each command finds beside it [default: the one that FILE is in]
    #[arg(long, value_name = "DIR")]
    pub(crate) source: Option<PathBuf>,
    /// So many commands at once [default: the number of processors]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=provender_client::dag::MAX_JOBS as i64))]
    pub(crate) jobs: Option<u16>,
    /// After a failure, go on with what does not depend on it; that is what happens without this as well
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Put this before each task's name
    #[arg(long, value_name = "P", default_value = "")]
    pub(crate) prefix: String,
    /// Say first why each task has to run: what differs from the nearest success under its name
    #[arg(long)]
    pub(crate) why: bool,
    #[command(flatten)]
    pub(crate) remarks: Remarks,
    /// Seconds after which others take over if this provender is not heard of (1 to 3600)
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "15")]
    pub(crate) ttl: Duration,
}

/// What is said of executions from the first.
#[derive(Debug, clap::Args)]
pub(crate) struct Remarks {
    /// Label the execution, for `ls --where labels.NAME=VALUE`; a hit keeps the labels that it has
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Keep a note with the execution
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Annotate {
    /// The execution; of a key or name, the one that it stands for
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Ref,
    /// Set a label
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Take a label away
    #[arg(long, value_name = "NAME")]
    pub(crate) remove: Vec<String>,
    /// Set the note; an empty one takes it away
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DagImport {
    /// The file, as à la mode's `save` writes it
    pub(crate) file: PathBuf,
    /// Put this before each task's name
    #[arg(long, value_name = "P", default_value = "")]
    pub(crate) prefix: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Keys, or other references to executions
    #[arg(required = true, value_name = "KEY", value_parser = reference)]
    pub(crate) keys: Vec<Ref>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// What to show
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Ref,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Why {
    /// A key, a name, or one execution (exec:ID), which stands for its key
    #[arg(value_name = "KEY|NAME", value_parser = reference)]
    pub(crate) reference: Ref,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Lineage {
    /// Where to begin: a name, NAME@N (its N-th newest record), a key, exec:ID, blob:HEX or tree:HEX
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Ref,
    /// What was made from it, instead of what it was made from
    #[arg(long)]
    pub(crate) down: bool,
    /// At most so many steps away
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) depth: Option<u32>,
    /// At most so many tasks and sources at once, up to 1,000,000
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) limit: u32,
    /// Go on behind what was shown before: the number that was said at its end
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(..=20_000_000))]
    pub(crate) skip: u32,
    /// List every source, where more than 20 of one task are summed up
    #[arg(long)]
    pub(crate) all: bool,
    /// Print a graph for Graphviz
    #[arg(long, conflicts_with = "json")]
    pub(crate) dot: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    /// What was before: a name, NAME@N (`@2` is the record before the newest one), a key, exec:ID, tree:HEX or blob:HEX
    #[arg(value_name = "A", value_parser = reference)]
    pub(crate) old: Ref,
    /// What it is compared with, said the same way
    #[arg(value_name = "B", value_parser = reference)]
    pub(crate) new: Ref,
    /// At most so many causes, and so many outputs, up to 100,000
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// Print the causes alone
    #[arg(long, conflicts_with = "outputs")]
    pub(crate) causes: bool,
    /// Print the outputs alone
    #[arg(long)]
    pub(crate) outputs: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Whose output
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Ref,
    /// Wait for a run that is under way, then print
    #[arg(long, short)]
    pub(crate) follow: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct History {
    /// The name, or a key
    #[arg(value_name = "NAME", value_parser = reference)]
    pub(crate) of: Ref,
    /// Only those that failed or were abandoned
    #[arg(long)]
    pub(crate) failed: bool,
    /// At most so many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// How the names begin
    #[arg(default_value = "")]
    pub(crate) prefix: String,
    /// Only names whose newest attempt failed or was abandoned; with --where, only executions that did
    #[arg(long)]
    pub(crate) failed: bool,
    /// List the executions of which this holds instead, newest first: params.lr=0.01, image=train*, metrics.loss<0.2; all that are given have
    /// to hold
    #[arg(long = "where", value_name = "CONDITION", value_parser = condition)]
    pub(crate) conditions: Vec<String>,
    /// At most so many executions
    #[arg(short = 'n', long = "limit", value_name = "N", requires = "conditions", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Invalidate {
    /// Keys and names; NAME@N and exec:ID if those are still their keys' records
    #[arg(required_unless_present = "conditions", value_name = "KEY|NAME|REF", value_parser = reference)]
    pub(crate) references: Vec<Ref>,
    /// Instead, the keys whose records were made by executions of which this holds, as for `ls`; all that are given have to hold
    #[arg(long = "where", value_name = "CONDITION", value_parser = condition, conflicts_with = "references")]
    pub(crate) conditions: Vec<String>,
    /// Also all that was made, over any number of steps, from what those made
    #[arg(long)]
    pub(crate) downstream: bool,
    /// Why; it is shown with the verdict, and to who was at it
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Say what would be invalidated, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Evict {
    /// Keys and names; NAME@N and exec:ID if those are still their keys' records
    #[arg(required_unless_present = "conditions", value_name = "KEY|NAME|REF", value_parser = reference)]
    pub(crate) references: Vec<Ref>,
    /// Instead, the keys whose records were made by executions of which this holds, as for `ls`; all that are given have to hold
    #[arg(long = "where", value_name = "CONDITION", value_parser = condition, conflicts_with = "references")]
    pub(crate) conditions: Vec<String>,
    /// Why; it is shown with the verdict
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Say what would be evicted, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// Keys, and how names begin, as for `ls`; none of them: everything
    #[arg(value_name = "KEY|PREFIX")]
    pub(crate) what: Vec<String>,
    /// Go on from here: the `cursor` of a line that `--json` has printed
    #[arg(long, value_name = "CURSOR")]
    pub(crate) from: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// What to store
    pub(crate) path: PathBuf,
    /// Under this name; without one it is kept for 7 days
    #[arg(long, value_parser = name)]
    pub(crate) name: Option<Name>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// What to restore
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Ref,
    /// Where to [default: the last part of the path or name]
    pub(crate) dest: Option<PathBuf>,
    /// Only what stands at this path of the outputs
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<OsString>,
    /// Replace what stands at DEST
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cat {
    /// What to look into
    #[arg(value_name = "REF", value_parser = reference)]
    pub(crate) reference: Ref,
    /// The file in it; none for a blob
    pub(crate) path: Option<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Mount {
    /// An empty folder, made if it is missing
    pub(crate) dir: PathBuf,
    /// Stay, and unmount on Ctrl-C, instead of serving the view in the background
    #[arg(long, short)]
    pub(crate) foreground: bool,
    /// Let other users look in too; without root this takes `user_allow_other` in /etc/fuse.conf
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// Keep what was read in this folder, which may be deleted at any time [default: provender/mount in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// The most that it takes of the disk, in bytes or with K, M, G or T; what was used least recently goes. 0 keeps nothing
    #[arg(long, value_name = "SIZE", default_value = "10G", value_parser = size)]
    pub(crate) cache_size: u64,
    /// Ask no daemon: show what was seen with one, as it was then. What was not seen is an error
    #[arg(long)]
    pub(crate) offline: bool,
    /// Say on standard output when it is mounted, then let go of the caller
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) ready: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Umount {
    /// Where it is mounted
    pub(crate) dir: PathBuf,
}

fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(digits) => (digits, text.chars().last()),
        None => (text, None),
    };
    let shift = unit.map_or(0, |unit| "KMGT".find(unit).map_or(0, |place| 10 * (place + 1)));
    let size = digits.parse::<u64>().ok().and_then(|size| size.checked_mul(1 << shift));
    size.ok_or_else(|| "it takes a number of bytes, or one with K, M, G or T, such as 20G".into())
}

fn variable(text: OsString) -> Result<OsString, &'static str> {
    match text.as_bytes() {
        [] => Err("it takes a variable's name"),
        bytes if bytes.contains(&b'=') => Err("it takes a variable's name; set its value before the command"),
        _ => Ok(text),
    }
}

fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
}

fn label(text: &str) -> Result<(String, String), String> {
    provender_core::remarks::label(text).map_err(|error| error.to_string())
}

fn key(text: &str) -> Result<TaskKey, String> {
    text.parse().map_err(|error: provender_core::key::KeyError| error.to_string())
}

fn reference(text: &str) -> Result<Ref, String> {
    text.parse().map_err(|error: provender_core::reference::RefError| error.to_string())
}

/// A condition as it was written; that it is one is known before the daemon is asked.
fn condition(text: &str) -> Result<String, String> {
    match text.parse::<provender_core::search::Condition>() {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(error.to_string()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "it takes a whole number from 1 to 3600".into())
}
