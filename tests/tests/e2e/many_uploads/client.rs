//! A client that is cut off on purpose and goes on as the real one does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use provender_client::{Client, ClientError, Remote};
use provender_core::Digest;
use provender_core::name::Space;
use provender_tests::conformance::blobs::bytes;

/// How many bytes go in one piece.
const PIECE: usize = 256 << 10;

/// Where an upload is cut off, of what is left of it, and whether by the end of the connection or of the call alone.
pub(super) struct Cut {
    pub(super) at: u64,
    pub(super) disconnects: bool,
}

/// A connection of its own, made when there is need.
pub(super) struct Connection {
    remote: Remote,
    client: tokio::sync::OnceCell<Client>,
}

impl Connection {
    pub(super) fn new(remote: &str) -> Connection {
        Connection { remote: Remote::find(Some(remote)).unwrap(), client: Default::default() }
    }

    /// The client; a daemon that is away is waited for.
    pub(super) async fn client(&self) -> &Client {
        let connect = || async {
            loop {
                match Client::connect(&self.remote, Space::default()).await {
                    Ok(client) => return client,
                    Err(error) => assert!(error.is_passing(), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        self.client.get_or_init(connect).await
    }

    fn disconnect(&mut self) {
        self.client = Default::default();
    }
}

/// Uploads a blob, being cut off where it is said and going on from where that was; says how often it went on from within. If it is
/// abandoned, the last cut is the end of it.
pub(super) async fn upload(
    connection: &mut Connection,
    content: &Bytes,
    digest: &Digest,
    cuts: &[Cut],
    abandoned: bool,
) -> usize {
    let (mut from, mut went_on, mut cuts) = (0, 0, cuts.iter());
    loop {
        let cut = cuts.next();
        let ended = match cut {
            Some(cut) => {
                let left = (content.len() - from) as u64;
                // Never all of it.
                let end = from + (cut.at % left.max(1)) as usize;
                let ended = cut_off(connection.client().await, content, digest, from, end).await;
                if cut.disconnects {
                    connection.disconnect();
                }
                ended
            }
            None => Some(send(connection.client().await, content, digest, from..content.len()).await),
        };
        if abandoned && cuts.len() == 0 && ended.as_ref().is_none_or(|ended| ended.is_err()) {
            return went_on;
        }
        match ended {
            Some(Ok(found)) => {
                assert_eq!(found, *digest);
                return went_on;
            }
            // What was kept is swept, or another copy of it is on its way.
            Some(Err(ClientError::Refused(_))) if from > 0 => {
                from = 0;
                continue;
            }
            Some(Err(error)) => {
                assert!(error.is_passing(), "{error}");
                connection.disconnect();
            }
            None => {}
        }
        from = loop {
            match connection.client().await.query_upload(digest).await {
                Ok(None) => return went_on,
                Ok(Some(kept)) => break kept as usize,
                Err(error) => {
                    assert!(error.is_passing(), "{error}");
                    connection.disconnect();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        went_on += usize::from(from > 0);
    }
}

async fn send(
    client: &Client,
    content: &Bytes,
    digest: &Digest,
    range: std::ops::Range<usize>,
) -> Result<Digest, ClientError> {
    client.upload(Some(digest), range.start as u64, stream::iter(pieces(content, range))).await
}

/// Sends what stands between two bytes, and then goes away; `None` unless it was told something before.
async fn cut_off(
    client: &Client,
    content: &Bytes,
    digest: &Digest,
    from: usize,
    end: usize,
) -> Option<Result<Digest, ClientError>> {
    let (sent, all_sent) = tokio::sync::oneshot::channel();
    let silence = stream::once(async move {
        _ = sent.send(());
        std::future::pending().await
    });
    let parts = stream::iter(pieces(content, from..end)).chain(silence);
    tokio::select! {
        told = client.upload(Some(digest), from as u64, parts) => Some(told),
        _ = all_sent => None,
    }
}

fn pieces(content: &Bytes, range: std::ops::Range<usize>) -> Vec<Bytes> {
    let part = content.slice(range);
    part.chunks(PIECE).map(|piece| part.slice_ref(piece)).collect()
}

/// Reads blobs back and compares them with the bytes of their seeds.
pub(super) async fn read_all(remote: &str, blobs: Vec<(usize, Digest)>) {
    let (blobs, next) = (Arc::new(blobs), Arc::new(AtomicUsize::new(0)));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (blobs, next, connection) = (blobs.clone(), next.clone(), Connection::new(remote));
            tokio::spawn(async move {
                while let Some((n, digest)) = blobs.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let found = connection.client().await.bytes(digest, digest.size).await.unwrap();
                    assert!(bytes(*n as u64, found.len()) == found, "upload {n}");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
}
