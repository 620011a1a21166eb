//! The gRPC side of a service that is played: it takes one request for a session, and answers with a refusal.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::mpsc;

use agentd_policy::Refusal;
use agentd_proto::v1::sessions_server::{Sessions, SessionsServer};
use agentd_proto::v1::*;
use tokio::sync::oneshot;
use tokio_stream::{Empty, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// A request, and where its answer is waited for.
pub struct Answer {
    /// What the client sent.
    pub request: CreateRequest,
    /// Why there is no session.
    pub answer: oneshot::Sender<Refusal>,
}

/// Serves the connection until it is over.
pub fn serve(connection: OwnedFd, asked: mpsc::Sender<Answer>, over: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = std::os::unix::net::UnixStream::from(connection);
        stream.set_nonblocking(true).expect("a socket");
        let stream = tokio::net::UnixStream::from_std(stream).expect("a socket");
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(stream)).chain(tokio_stream::pending());
        let service = SessionsServer::new(Rogue(asked));
        let server = tonic::transport::Server::builder().add_service(service);
        let served = server.serve_with_incoming_shutdown(incoming, async { drop(over.await) });
        served.await.expect("it serves");
    });
}

struct Rogue(mpsc::Sender<Answer>);

type Nothing<T> = Empty<Result<T, Status>>;

fn not_played<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not played"))
}

#[tonic::async_trait]
impl Sessions for Rogue {
    type AttachStream = Nothing<AttachOutput>;
    type ExecStream = Nothing<AttachOutput>;
    type EventsStream = Nothing<Event>;
    type WatchStream = Nothing<Session>;
    type LogsStream = Nothing<LogChunk>;

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateReply>, Status> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Answer { request: request.into_inner(), answer }).expect("the test waits");
        let refusal = answered.await.expect("the test answers");
        let metadata = HashMap::from([("what".to_owned(), refusal.what), ("hint".to_owned(), refusal.hint)]);
        let details = ErrorDetails::with_error_info(refusal.rule.name(), "agentd", metadata);
        Err(Status::with_error_details(Code::FailedPrecondition, "refused", details))
    }

    async fn attach(
        &self,
        _: Request<Streaming<AttachInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        not_played()
    }

    async fn exec(&self, _: Request<Streaming<AttachInput>>) -> Result<Response<Self::ExecStream>, Status> {
        not_played()
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        not_played()
    }

    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        not_played()
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        not_played()
    }

    async fn logs(&self, _: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        not_played()
    }

    async fn kill(&self, _: Request<KillRequest>) -> Result<Response<KillReply>, Status> {
        not_played()
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        not_played()
    }

    async fn reviewed(&self, _: Request<ReviewedRequest>) -> Result<Response<ReviewedReply>, Status> {
        not_played()
    }

    async fn remove(&self, _: Request<RemoveRequest>) -> Result<Response<RemoveReply>, Status> {
        not_played()
    }

    async fn events(&self, _: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        not_played()
    }

    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionReply>, Status> {
        not_played()
    }

    async fn doctor(&self, _: Request<DoctorRequest>) -> Result<Response<DoctorReply>, Status> {
        not_played()
    }
}
