//! A layer between a client and an S3 server that can be told to fail, request by request.
//!
//! Requests go through as they are, so that their signatures stay right: the client signs for the address of this layer, and the server
//! believes what it is told there.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is refused with this status, and a code as S3 has it, and does not reach the server.
    Refuse(u16, &'static str),
    /// It waits before it goes on.
    Slow(Duration),
    /// The answer's body is cut off after so many bytes.
    Cut(u64),
    /// It is carried out, and the connection ends before the answer.
    Unheard,
    /// If its condition fails it is answered as if it had been carried out, as servers do that know no conditions.
    Unconditional,
    /// The connection ends at once.
    Hangup,
}

/// What is known of a request when it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// GET, PUT and so on.
    pub method: String,
    /// What of, with the bucket.
    pub path: String,
    /// The query.
    pub query: String,
}

type Judge = dyn FnMut(&Asked) -> Option<Fault> + Send;
type AnyError = Box<dyn Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, AnyError>;

/// The layer; it ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    judge: Arc<Mutex<Box<Judge>>>,
    served: Arc<AtomicU64>,
    _serving: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Begins to serve before a server at `HOST:PORT`, without any faults.
    pub async fn start(server: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let judge: Arc<Mutex<Box<Judge>>> = Arc::new(Mutex::new(Box::new(|_| None)));
        let served = Arc::new(AtomicU64::new(0));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let layer = Layer { server, judge: judge.clone(), served: served.clone(), client };
        let serving = tokio::spawn(async move {
            // Connections end with the layer.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let layer = layer.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| layer.clone().answer(request));
                    let connection = TokioIo::new(connection);
                    _ = hyper::server::conn::http1::Builder::new().serve_connection(connection, service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Proxy { address, judge, served, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Where it listens, as `HOST:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on this decides of each request.
    pub fn judge(&self, judge: impl FnMut(&Asked) -> Option<Fault> + Send + 'static) {
        *self.judge.lock().expect("no judge panics") = Box::new(judge);
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        self.judge(|_| None);
    }

    /// How many requests came.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The connection ends instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut off on purpose")]
struct CutOff;

#[derive(Clone)]
struct Layer {
    server: String,
    judge: Arc<Mutex<Box<Judge>>>,
    served: Arc<AtomicU64>,
    client: Client<HttpConnector, Incoming>,
}

impl Layer {
    async fn answer(self, mut request: Request<Incoming>) -> Result<Response<Body>, AnyError> {
        let asked = Asked {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
        };
        self.served.fetch_add(1, Ordering::Relaxed);
        let fault = (self.judge.lock().expect("no judge panics"))(&asked);
        match fault {
            Some(Fault::Refuse(status, code)) => return Ok(refusal(status, code)),
            Some(Fault::Slow(wait)) => tokio::time::sleep(wait).await,
            Some(Fault::Hangup) => return Err(CutOff.into()),
            Some(Fault::Unconditional | Fault::Cut(_) | Fault::Unheard) | None => {}
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("http://{}{path}", self.server).parse()?;
        let answer = self.client.request(request).await?;
        match fault {
            Some(Fault::Unheard) => {
                answer.into_body().collect().await?;
                Err(CutOff.into())
            }
            Some(Fault::Unconditional) if answer.status() == StatusCode::PRECONDITION_FAILED => {
                let body = Full::default().map_err(|never: Infallible| match never {}).boxed_unsync();
                Ok(Response::builder().header("etag", "\"unconditional\"").body(body)?)
            }
            Some(Fault::Cut(after)) => Ok(answer.map(|body| cut(body, after))),
            _ => Ok(answer.map(|body| body.map_err(AnyError::from).boxed_unsync())),
        }
    }
}

/// The first bytes of a body, and an end that it should not have.
fn cut(body: Incoming, after: u64) -> Body {
    let mut left = after as usize;
    let frames = BodyStream::new(body);
    let frames = StreamExt::map(frames, move |frame| match frame?.into_data() {
        Ok(data) if data.len() > left => Err(AnyError::from(CutOff)),
        Ok(data) => {
            left -= data.len();
            Ok(Frame::data(data))
        }
        Err(other) => Ok(other),
    });
    StreamBody::new(frames).boxed_unsync()
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
    let text = format!("{head}\n<Error><Code>{code}</Code><Message>on purpose</Message></Error>");
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let answer = Response::builder().status(status).header("content-type", "application/xml");
    answer.body(body).expect("a status that there is")
}
