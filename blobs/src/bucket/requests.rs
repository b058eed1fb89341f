//! What is asked of a bucket: requests are what it costs.
//!
//! Counted where they are sent, so that each that is tried again counts again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// A kind of request, as servers charge for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Request {
    /// Bytes out, or a part of them.
    Get,
    /// What is there of an object.
    Head,
    /// An object, or a part of one.
    Put,
    /// A multipart upload begins or ends, and anything else that is posted.
    Post,
    /// A page of a listing.
    List,
    /// An object or an upload is removed.
    Delete,
}

impl Request {
    /// All of them.
    pub const ALL: [Request; 6] =
        [Request::Get, Request::Head, Request::Put, Request::Post, Request::List, Request::Delete];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Request::Get => "get",
            Request::Head => "head",
            Request::Put => "put",
            Request::Post => "post",
            Request::List => "list",
            Request::Delete => "delete",
        }
    }

    fn of(request: &HttpRequest) -> Request {
        let lists =
            || request.uri().query().is_some_and(|query| query.contains("list-type=") || query.contains("comp=list"));
        match request.method().as_str() {
            "HEAD" => Request::Head,
            "PUT" => Request::Put,
            "DELETE" => Request::Delete,
            "GET" if lists() => Request::List,
            "GET" => Request::Get,
            _ => Request::Post,
        }
    }
}

/// How many requests were sent, and how many of them failed or were refused by the server for want of strength.
#[derive(Debug, Default)]
pub struct Requests {
    sent: [AtomicU64; Request::ALL.len()],
    failed: [AtomicU64; Request::ALL.len()],
}

impl Requests {
    /// How many of a kind were sent.
    pub fn sent(&self, kind: Request) -> u64 {
        self.sent[kind as usize].load(Ordering::Relaxed)
    }

    /// How many of these came to no answer, or to one of a server in trouble (429 and 5xx).
    pub fn failed(&self, kind: Request) -> u64 {
        self.failed[kind as usize].load(Ordering::Relaxed)
    }
}

/// Connects as object_store does, and counts.
#[derive(Debug)]
pub(super) struct Counting(pub(super) Arc<Requests>);

impl HttpConnector for Counting {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let (requests, client) = (self.0.clone(), ReqwestConnector::default().connect(options)?);
        Ok(HttpClient::new(Counted { requests, client }))
    }
}

#[derive(Debug)]
struct Counted {
    requests: Arc<Requests>,
    client: HttpClient,
}

#[async_trait]
impl HttpService for Counted {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let kind = Request::of(&request);
        self.requests.sent[kind as usize].fetch_add(1, Ordering::Relaxed);
        let answer = self.client.execute(request).await;
        let is_weak = |answer: &HttpResponse| answer.status().is_server_error() || answer.status().as_u16() == 429;
        if answer.as_ref().map_or(true, is_weak) {
            self.requests.failed[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
        answer
    }
}
