//! `provender pin`, `provender unpin` and `provender pins`.

use std::process::ExitCode;

use provender_client::{Client, ClientError, Described, PinId};
use provender_core::blob::{Pin, Pinned};
use provender_core::{Digest, Ref, digest, json};
use serde_json::json;

use super::{Session, executor};
use crate::args;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn pin(session: &Session, args: args::Pin) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let what = match args.what.what {
        Some(reference @ (Ref::Blob(_) | Ref::Tree(_))) => bytes_of(&client, &reference).await?,
        other => not_bytes(&client, other, args.what.prefix).await?,
    };
    let (reason, owner) = (args.reason.unwrap_or_default(), owner("provender pin"));
    let (id, pin) = client.pin(&what, &reason, &owner, args.time).await?;
    match session.json {
        true => print::document(&document(&id, &pin))?,
        false => session.say(format!("pinned {} {}", clean(&pin.what), until(&pin))),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn unpin(session: &Session, args: args::Unpin) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let what = match args.what.what {
        Some(reference @ (Ref::Blob(_) | Ref::Tree(_))) => pinned_bytes(&client, &reference).await?,
        other => not_bytes(&client, other, args.what.prefix).await?,
    };
    let owner = (!args.any_owner).then(|| owner("provender unpin"));
    let removed = client.unpin(&what, owner.as_deref()).await.map_err(|error| match (&error, &owner) {
        (ClientError::NotFound(_), Some(owner)) => {
            let (what, owner) = (clean(&what), print::clean(owner));
            Fault::no(format!("{what} is not pinned by {owner}; --any-owner takes pins of others away as well"))
        }
        (ClientError::NotFound(_), None) => Fault::no(format!("{} is not pinned", clean(&what))),
        _ => error.into(),
    })?;
    for (id, pin) in removed {
        match session.json {
            true => print::item(&document(&id, &pin))?,
            false => session.say(format!("unpinned {}, pinned by {}", clean(&pin.what), print::clean(&pin.owner))),
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn pins(session: &Session) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    client.pins(|id, pin| show(session, &id, &pin)).await?;
    Ok(ExitCode::SUCCESS)
}

fn show(session: &Session, id: &PinId, pin: &Pin) -> Result<(), Fault> {
    if session.json {
        return print::item(&document(id, pin));
    }
    let reason = Some(print::clean(&pin.reason)).filter(|reason| !reason.is_empty());
    let reason = reason.map(|reason| format!("  {reason}")).unwrap_or_default();
    print::line(format!("{}  {}  {}{reason}", clean(&pin.what), print::clean(&pin.owner), until(pin)))
}

fn clean(what: &Pinned) -> String {
    match what {
        Pinned::Prefix(prefix) if prefix.is_empty() => "all names".into(),
        what => print::clean(&what.to_string()),
    }
}

fn until(pin: &Pin) -> String {
    pin.expires.map_or("for good".into(), |at| format!("until {at}"))
}

fn document(id: &PinId, pin: &Pin) -> serde_json::Value {
    let (kind, value) = match &pin.what {
        Pinned::Blob(digest) => ("blob", json::digest(digest)),
        Pinned::Tree(digest) => ("tree", json::digest(digest)),
        Pinned::Key(key) => ("key", key.as_str().into()),
        Pinned::Name(name) => ("name", name.as_str().into()),
        Pinned::Prefix(prefix) => ("prefix", prefix.as_str().into()),
    };
    json!({
        "v": json::V,
        "id": digest::hex(id),
        "what": { "kind": kind, "value": value },
        "owner": pin.owner,
        "reason": Some(&pin.reason).filter(|reason| !reason.is_empty()),
        "made": pin.made.to_string(),
        "expires": pin.expires.map(|at| at.to_string()),
    })
}

/// Whose pins these are.
fn owner(program: &str) -> String {
    let who = executor(program);
    format!("{}@{}", who.user, who.host)
}

/// What is meant by anything but a blob or tree.
async fn not_bytes(client: &Client, reference: Option<Ref>, prefix: Option<String>) -> Result<Pinned, Fault> {
    match (reference, prefix) {
        (None, prefix) => Ok(Pinned::Prefix(prefix.unwrap_or_default())),
        (Some(Ref::Key(key)), _) => Ok(Pinned::Key(key)),
        (Some(Ref::Name { name, nth: None }), _) => Ok(Pinned::Name(name)),
        (Some(one), _) => Err(instead_of(client, &one).await?),
    }
}

/// What to pin instead of one execution.
async fn instead_of(client: &Client, reference: &Ref) -> Result<Fault, Fault> {
    let (mut key, mut tree) = ("its key".to_owned(), "tree:HEX of its outputs".to_owned());
    if let Described::Task(task) = client.describe(reference).await? {
        key = task.execution.key.to_string();
        if let Some(outputs) = task.execution.outcome.outputs {
            tree = format!("tree:{}", outputs.hex());
        }
    }
    Ok(Fault::no(format!(
        "{reference} is one execution, and goes with its record: pin {key} to keep the record that this key has, or {tree} to keep what it made"
    )))
}

/// The blob or tree that is in the store.
async fn bytes_of(client: &Client, reference: &Ref) -> Result<Pinned, Fault> {
    match client.describe(reference).await? {
        Described::Blob(digest) => Ok(Pinned::Blob(digest)),
        Described::Tree(digest) => Ok(Pinned::Tree(digest)),
        _ => Err(Fault::ours(format!("the daemon says that {reference} is neither blob nor tree"))),
    }
}

/// The blob or tree that is pinned: it may be lost by now.
async fn pinned_bytes(client: &Client, reference: &Ref) -> Result<Pinned, Fault> {
    let is_it = |digest: &Digest, hash: &[u8; 32]| digest.hash == *hash;
    let mut found = None;
    client
        .pins(|_, pin| {
            match (&pin.what, reference) {
                (Pinned::Blob(digest), Ref::Blob(hash)) | (Pinned::Tree(digest), Ref::Tree(hash))
                    if is_it(digest, hash) =>
                {
                    found = Some(pin.what);
                }
                _ => {}
            }
            Ok::<_, Fault>(())
        })
        .await?;
    found.ok_or_else(|| Fault::no(format!("{reference} is not pinned")))
}
