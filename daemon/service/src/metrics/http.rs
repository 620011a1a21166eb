//! `GET /metrics`, over HTTP/1.1 on the socket that the launcher made: one request a connection, few of them at once
//! for each user, each with a short time.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
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

use super::look::Size;
use super::metrics;
use crate::host::Host;
use crate::slots::Slots;
use crate::sync::lock;

/// The one path.
const PATH: &str = "/metrics";
/// The form of the answer.
const FORM: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections of one user at a time.
const EACH: u32 = 4;
/// The longest head of a request, in bytes, and the most fields of it.
const HEAD: (usize, usize) = (16 << 10, 64);
/// How long a request may take to come, and the whole of a connection.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
/// After a connection that could not be accepted: there may be no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is answered at present.
#[derive(Default)]
pub struct Scrapes(Mutex<Option<AbortHandle>>);

impl Scrapes {
    /// From now on whoever connects to `socket`, which takes the place of the one before.
    pub fn serve(&self, host: &Arc<Host>, socket: OwnedFd) -> std::io::Result<()> {
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let task = tokio::spawn(accept(host.clone(), listener));
        if let Some(before) = lock(&self.0).replace(task.abort_handle()) {
            before.abort();
        }
        Ok(())
    }
}

async fn accept(host: Arc<Host>, listener: UnixListener) {
    let (slots, size) = (Slots::new(EACH), Arc::new(Size::default()));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "nobody can ask for metrics at this moment");
                sleep(PAUSE).await;
                continue;
            }
        };
        // One more than there may be is closed at once.
        let Some(slot) = stream.peer_cred().ok().and_then(|peer| slots.take(peer.uid())) else { continue };
        let (host, size) = (host.clone(), size.clone());
        tokio::spawn(async move {
            answer(host, size, stream).await;
            drop(slot);
        });
    }
}

async fn answer(host: Arc<Host>, size: Arc<Size>, stream: UnixStream) {
    let service = service_fn(|request: Request<Incoming>| {
        let (host, size) = (host.clone(), size.clone());
        async move { Ok::<_, Infallible>(reply(&host, &size, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE.0)
        .max_buf_size(HEAD.0)
        .max_headers(HEAD.1)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE.1, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics"),
        Err(error) => tracing::debug!(%error, "a connection for metrics"),
    }
}

async fn reply(host: &Host, size: &Size, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return response(StatusCode::NOT_FOUND, "only /metrics is here\n".into());
    }
    if request.method() != Method::GET {
        let mut response = response(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match metrics().text(host, size).await {
        Ok(text) => {
            let mut response = response(StatusCode::OK, text);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
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
