//! `provender cat`.

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use provender_core::tree::Node;

use super::{Session, descend, node_of};
use crate::args::Cat;
use crate::fault::Fault;

pub(crate) async fn cat(session: &Session, args: Cat) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let node = node_of(&client, &args.reference).await?;
    let node = match &args.path {
        Some(path) => descend(&client, node, path.as_bytes()).await?,
        None => node,
    };
    match node {
        Node::File { digest, .. } => {
            client.copy(&digest, &mut std::io::stdout()).await?;
            Ok(ExitCode::SUCCESS)
        }
        Node::Directory { .. } => Err(Fault::no("that is a folder; name a file in it, or use `provender get`")),
        Node::Symlink { target } => {
            let target = String::from_utf8_lossy(&target).into_owned();
            Err(Fault::no(format!("that is a symbolic link to {target}; name what it points at")))
        }
    }
}
