//! `GET /metrics`, over HTTP/1.1 on the socket that the launcher made: one request a connection, few of them at once
//! for each user, each with a short time.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::metrics;
use super::snapshot::{Snapshot, StoreSize};
use crate::quota::slots::Slots;

const PATH: &str = "/metrics";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections of one user at a time.
const CONNECTIONS_EACH: u32 = 4;
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// After a connection that could not be accepted: there may be no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Reads the present counts.
pub type TakeSnapshot = Arc<dyn Fn() -> Snapshot + Send + Sync>;

/// Answers on the socket that the launcher sent last.
pub struct MetricsServer {
    source: Source,
    task: Option<AbortHandle>,
}

/// Where the numbers come from.
#[derive(Clone)]
struct Source {
    snapshot: TakeSnapshot,
    size: Arc<StoreSize>,
}

impl MetricsServer {
    /// `store` is the directory whose size is exported.
    pub fn new(snapshot: TakeSnapshot, store: PathBuf) -> Self {
        Self { source: Source { snapshot, size: Arc::new(StoreSize::new(store)) }, task: None }
    }

    /// Answers on `socket` from now on, and no more on the one before.
    pub fn serve(&mut self, socket: OwnedFd) -> std::io::Result<()> {
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let task = tokio::spawn(accept(self.source.clone(), listener));
        if let Some(before) = self.task.replace(task.abort_handle()) {
            before.abort();
        }
        Ok(())
    }
}

async fn accept(source: Source, listener: UnixListener) {
    let slots = Slots::new(CONNECTIONS_EACH);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was not accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One more than there may be is closed at once.
        let Some(slot) = stream.peer_cred().ok().and_then(|peer| slots.take(peer.uid())) else { continue };
        let source = source.clone();
        tokio::spawn(async move {
            answer(source, stream).await;
            drop(slot);
        });
    }
}

async fn answer(source: Source, stream: UnixStream) {
    let service = service_fn(|request: Request<Incoming>| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(reply(&source, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics"),
        Err(error) => tracing::debug!(%error, "a connection for metrics"),
    }
}

async fn reply(source: &Source, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return response(StatusCode::NOT_FOUND, "only /metrics is here\n".into());
    }
    if request.method() != Method::GET {
        let mut response = response(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match metrics().text((source.snapshot)(), &source.size).await {
        Ok(text) => {
            let mut response = response(StatusCode::OK, text);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
            response
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written as text");
            response(StatusCode::INTERNAL_SERVER_ERROR, "see the log of agentd\n".into())
        }
    }
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
