//! A socket between a client and PostgreSQL that breaks at COMMIT.
//!
//! Owns the byte pumps. It knows of the protocol only what a COMMIT and its answer look like.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What happens to the next connection that sends a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is cut so many bytes before the COMMIT's end. 0 lets all of it through; whether the server gets to the COMMIT before
    /// it notices, while it answers what came before, is chance.
    Cut {
        /// How much is left out.
        short: usize,
    },
    /// The client is cut off at once, while the server goes on to its end.
    CutClient,
    /// It is cut when the server has answered, before the client hears of it.
    CutAnswer,
    /// Nothing moves on it any more, in either direction, from before the COMMIT.
    Freeze,
}

/// COMMIT as a simple query: type, length, text.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// A listening proxy; gone when dropped.
#[derive(Debug)]
pub struct Proxy {
    folder: tempfile::TempDir,
    next: Arc<Mutex<Option<Fault>>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `server`, without faults at first.
    pub fn start(server: &super::Server) -> Proxy {
        let folder = tempfile::Builder::new().prefix("pgproxy").tempdir().expect("a folder for the proxy");
        let listener = UnixListener::bind(super::socket(folder.path())).expect("a new socket");
        let next = Arc::new(Mutex::new(None));
        let task = tokio::spawn(accept(listener, server.socket(), Arc::clone(&next)));
        Proxy { folder, next, task }
    }

    /// As [`super::Server::url`], by way of the proxy.
    pub fn url(&self) -> String {
        super::url(self.folder.path())
    }

    /// Prepares one fault.
    pub fn break_next(&self, fault: Fault) {
        *self.next.lock().unwrap() = Some(fault);
    }

    /// Whether the prepared fault has happened.
    pub fn has_broken(&self) -> bool {
        self.next.lock().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: UnixListener, server: PathBuf, next: Arc<Mutex<Option<Fault>>>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = UnixStream::connect(&server).await else { continue };
        tokio::spawn(pump(client, server, Arc::clone(&next)));
    }
}

async fn pump(mut client: UnixStream, mut server: UnixStream, next: Arc<Mutex<Option<Fault>>>) -> std::io::Result<()> {
    let (mut ask, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut hide_answer = false;
    loop {
        tokio::select! {
            read = client.read(&mut ask) => {
                let read = read?;
                // The client sends a COMMIT last, and waits for its answer.
                let fault = if ask[..read].ends_with(COMMIT) { next.lock().unwrap().take() } else { None };
                match fault {
                    _ if read == 0 => return Ok(()),
                    None => server.write_all(&ask[..read]).await?,
                    Some(Fault::Cut { short }) => return server.write_all(&ask[..read.saturating_sub(short)]).await,
                    Some(Fault::CutClient) => {
                        server.write_all(&ask[..read]).await?;
                        drop(client);
                        return drain(server, &mut answer).await;
                    }
                    Some(Fault::CutAnswer) => {
                        server.write_all(&ask[..read]).await?;
                        hide_answer = true;
                    }
                    Some(Fault::Freeze) => std::future::pending().await,
                }
            }
            read = server.read(&mut answer) => {
                let read = read?;
                if read == 0 || (hide_answer && is_answer(&answer[..read])) {
                    return Ok(());
                }
                client.write_all(&answer[..read]).await?;
            }
        }
    }
}

/// Reads on until the server has answered the COMMIT, or is gone.
async fn drain(mut server: UnixStream, answer: &mut [u8]) -> std::io::Result<()> {
    loop {
        let read = server.read(answer).await?;
        if read == 0 || is_answer(&answer[..read]) {
            return Ok(());
        }
    }
}

fn is_answer(bytes: &[u8]) -> bool {
    bytes.windows(7).any(|bytes| bytes == b"COMMIT\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_recognised() {
        assert_eq!(COMMIT.len(), 1 + usize::from(COMMIT[4]));
    }
}
