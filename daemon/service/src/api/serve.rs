//! The gRPC server: bounds for every connection and every user, before anything of a request is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use agentd_proto::v1::sessions_server::SessionsServer;
use agentd_proto::{DESCRIPTORS, MAX_MESSAGE, MAX_REPLY};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::connection::Incoming;
use super::{Api, caller, deny};
use crate::host::Host;
use crate::quota::slots::crowded;

/// Requests and streams at a time on one connection.
const STREAMS: u32 = 16;
/// What may be under way on one stream: less than on the connection, so that an idle stream
/// does not block the others.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The longest frame that is taken, in bytes: a message of stdin is one.
const FRAME: u32 = 96 << 10;
/// How long one request may take until it is answered, or its stream begins: more than the longest grace of a
/// stop.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(660);
/// The names with a health status: the whole, and the one service.
const HEALTH: [&str; 2] = ["", "agentd.v1.Sessions"];

/// Serves the clients that come in, for ever.
pub async fn serve(host: Arc<Host>, incoming: Incoming) -> Result<(), tonic::transport::Error> {
    let sessions = SessionsServer::new(Api(host.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_REPLY);
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report(host.clone(), reporter));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .inspect_err(|error| tracing::error!(%error, "there is no reflection"))
        .ok();
    let admitted = move |request| admit(&host, request);
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        // Without keep-alives: the kernel reports when a peer is gone, and one that is stopped (ctrl-z)
        // would not answer and goes on later.
        .http2_max_header_list_size(16 << 10)
        .timeout(REQUEST_TIMEOUT)
        .add_service(InterceptedService::new(sessions, admitted.clone()))
        .add_service(InterceptedService::new(health, admitted.clone()))
        .add_optional_service(reflection.map(|service| InterceptedService::new(service, admitted)))
        .serve_with_incoming(incoming)
        .await
}

/// Without a launcher no session can be made.
async fn report(host: Arc<Host>, reporter: HealthReporter) {
    let mut present = host.launcher.present();
    loop {
        let status = match *present.borrow_and_update() {
            0 => ServingStatus::NotServing,
            _ => ServingStatus::Serving,
        };
        for name in HEALTH {
            reporter.set_service_status(name, status).await;
        }
        if present.changed().await.is_err() {
            return;
        }
    }
}

/// Called before anything of a message is read. What it puts into the request is dropped once the message is
/// there, or will not come.
fn admit(host: &Arc<Host>, mut request: Request<()>) -> Result<Request<()>, Status> {
    let caller = caller(&request)?;
    if let Some(activity) = caller.activity.upgrade() {
        activity.request();
    }
    if !host.quotas.rate.take(caller.account, Instant::now()) {
        return deny(Err(Refusal::new(
            format!("more than {} requests a second", host.quotas.rate.each()),
            Rule::BoundsUserRequests,
            "ask less often",
        )));
    }
    let requests = &host.quotas.requests;
    let slot = deny(requests.take(caller.account).ok_or_else(|| crowded("requests under way", requests)))?;
    request.extensions_mut().insert(Arc::new(slot));
    Ok(request)
}
