//! The gRPC service. Who calls is what the launcher attested; what may be is decided elsewhere.

mod attach;
pub mod connection;
mod control;
mod create;
mod events;
mod logs;
pub mod serve;
mod system;

use std::sync::Arc;

use agentd_policy::Refusal;
use agentd_policy::names::SessionId;
use agentd_policy::rule::Rule;
use agentd_policy::wire::Peer;
use agentd_proto::v1::sessions_server::Sessions;
use agentd_proto::v1::{
    AttachInput, AttachOutput, CreateReply, CreateRequest, DoctorReply, DoctorRequest, Event, EventsRequest,
    InspectReply, InspectRequest, KillReply, KillRequest, ListReply, ListRequest, LogChunk, LogsRequest,
    RemoveReply, RemoveRequest, ReviewedReply, ReviewedRequest, Session as Shown, StopReply, StopRequest,
    VersionReply, VersionRequest, WatchRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::connection::Caller;
use self::events::{Filter, Scope};
use self::logs::Reading;
use crate::error::refused;
use crate::host::Host;
use crate::quota::slots::{Slot, Slots, crowded};
use crate::session::registry::Access;
use crate::session::{Phase, Session};

/// What the commands and messages of a list may come to, in bytes.
const LISTED: usize = 1 << 20;
/// Events and states that wait for a client.
const EVENTS: usize = 64;
/// Pieces of output that wait for a client.
const CHUNKS: usize = 4;

/// The answers to all requests.
pub struct Api(pub Arc<Host>);

/// Who sent `request`. Without that there is no answer.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Status::internal("a connection without a caller"))
}

/// A refusal as a status.
pub fn deny<T>(result: Result<T, Refusal>) -> Result<T, Status> {
    result.map_err(|refusal| refused(&refusal))
}

fn take(slots: &Arc<Slots>, caller: &Caller, what: &str) -> Result<Slot, Refusal> {
    slots.take_for(caller.account, caller.activity.upgrade()).ok_or_else(|| crowded(what, slots))
}

impl Api {
    /// A session that is known, or for admins one that only its record knows.
    async fn of_record(&self, text: &str, peer: &Peer) -> Result<Arc<Session>, Refusal> {
        let found = self.0.registry.find(text, peer, Access::Read);
        match (found, SessionId::parse(text)) {
            (Err(refusal), Ok(id))
                if refusal.rule == Rule::SessionUnknown && (peer.admin || peer.uid == 0) =>
            {
                let host = self.0.clone();
                let read = tokio::task::spawn_blocking(move || {
                    Session::from_removed(host.store.removed(&id)?, &host.store)
                })
                .await;
                read.ok().flatten().ok_or(refusal)
            }
            (found, _) => found,
        }
    }
}

/// Sends the state of a session, and each that follows.
async fn watch(session: Arc<Session>, to: mpsc::Sender<Result<Shown, Status>>) {
    let mut status = session.watch();
    let mut last = None;
    loop {
        let ended = status.borrow_and_update().phase >= Phase::Ended;
        let shown = session.show(LISTED);
        if last.as_ref() != Some(&shown) {
            if to.send(Ok(shown.clone())).await.is_err() {
                return;
            }
            last = Some(shown);
        }
        if ended {
            return;
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = to.closed() => return,
        }
    }
}

#[tonic::async_trait]
impl Sessions for Api {
    type AttachStream = ReceiverStream<Result<AttachOutput, Status>>;
    type ExecStream = ReceiverStream<Result<AttachOutput, Status>>;
    type EventsStream = ReceiverStream<Result<Event, Status>>;
    type WatchStream = ReceiverStream<Result<Shown, Status>>;
    type LogsStream = ReceiverStream<Result<LogChunk, Status>>;

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateReply>, Status> {
        let caller = caller(&request)?;
        let peer = caller.peer;
        let created = self.created(caller, request.into_inner()).await;
        deny(created.inspect_err(|refusal| create::log_refused(&peer, refusal))).map(Response::new)
    }

    async fn attach(
        &self,
        request: Request<Streaming<AttachInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = caller(&request)?;
        attach::attach(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn exec(
        &self,
        request: Request<Streaming<AttachInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let caller = caller(&request)?;
        attach::exec(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn inspect(&self, request: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        let peer = caller(&request)?.peer;
        let session = deny(self.0.registry.find(&request.get_ref().id, &peer, Access::Read))?;
        attach::opened(&session.hub).await;
        let mut reply = session.inspect();
        if reply.ended.is_empty() {
            let since = session.created_at;
            let opt = tokio::task::spawn_blocking(move || system::opt(since)).await;
            reply.mounts.extend(opt.map_err(|e| Status::internal(format!("/opt: {e}")))?);
        }
        Ok(Response::new(reply))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?;
        let session = deny(self.0.registry.find(&request.get_ref().id, &caller.peer, Access::Read))?;
        let slot = deny(take(&self.0.quotas.watchers, &caller, "watchers and stops"))?;
        let (to, stream) = mpsc::channel(EVENTS);
        tokio::spawn(async move {
            watch(session, to).await;
            drop(slot);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let caller = caller(&request)?;
        let LogsRequest { id, follow, tail } = request.into_inner();
        let session = deny(self.0.registry.find(&id, &caller.peer, Access::Control))?;
        let slot = deny(take(&self.0.quotas.followers, &caller, "streams of events and logs"))?;
        let reading = deny(Reading::begin(&self.0, &session, follow, tail).await)?;
        let (to, stream) = mpsc::channel(CHUNKS);
        tokio::spawn(async move {
            reading.send(to).await;
            drop(slot);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        let caller = caller(&request)?;
        deny(self.stopped(&caller, request.get_ref()).await).map(Response::new)
    }

    async fn doctor(&self, request: Request<DoctorRequest>) -> Result<Response<DoctorReply>, Status> {
        let caller = caller(&request)?;
        deny(self.examined(&caller, request.get_ref()).await).map(Response::new)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let peer = caller(&request)?.peer;
        let visible = self.0.registry.visible(&peer);
        let all = request.into_inner().all;
        let audits = peer.admin || peer.uid == 0;
        let is_listed =
            |s: &&Arc<Session>| s.phase() < Phase::Ended || (all && (audits || !s.is_forgotten()));
        let shown: Vec<_> = visible.iter().filter(is_listed).collect();
        // However many there are, and whatever others wrote into theirs, it fits into one message.
        let each = LISTED / shown.len().max(1);
        Ok(Response::new(ListReply { sessions: shown.iter().map(|s| s.show(each)).collect() }))
    }

    async fn kill(&self, request: Request<KillRequest>) -> Result<Response<KillReply>, Status> {
        let caller = caller(&request)?;
        deny(self.killed(&caller, request.get_ref()).await).map(Response::new)
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveReply>, Status> {
        let caller = caller(&request)?;
        deny(self.removed(caller, request.into_inner()).await).map(Response::new)
    }

    async fn reviewed(&self, request: Request<ReviewedRequest>) -> Result<Response<ReviewedReply>, Status> {
        let caller = caller(&request)?;
        deny(self.reviewed(&caller, request.get_ref()).await).map(Response::new)
    }

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let caller = caller(&request)?;
        let peer = caller.peer;
        let request = request.into_inner();
        let filter = deny(Filter::parse(&request))?;
        let scope = match request.id.as_str() {
            "" => Scope::All(peer),
            id => Scope::One(deny(self.of_record(id, &peer).await)?),
        };
        let slot = deny(take(&self.0.quotas.followers, &caller, "streams of events and logs"))?;
        let (to, stream) = mpsc::channel(EVENTS);
        let sending = events::send(self.0.clone(), scope, filter, request.follow, to);
        tokio::spawn(async move {
            sending.await;
            drop(slot);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionReply>, Status> {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let (version, api) = (env!("CARGO_PKG_VERSION").into(), agentd_proto::API.into());
        Ok(Response::new(VersionReply { version, api, kernel }))
    }
}
