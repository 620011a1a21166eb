//! The gRPC service. Who calls is what the launcher attested; what may be is decided elsewhere.

mod attach;
pub mod connection;
mod events;
mod logs;
pub mod serve;
mod steer;
mod system;

use std::sync::Arc;
use std::time::Instant;

use agentd_policy::Refusal;
use agentd_policy::decide::{Permit, decide};
use agentd_policy::names::SessionId;
use agentd_policy::profile::Profile;
use agentd_policy::rule::Rule;
use agentd_policy::wire::{Peer, Ticket};
use agentd_proto::v1::sessions_server::Sessions;
use agentd_proto::v1::{
    AttachInput, AttachOutput, CreateReply, CreateRequest, DoctorReply, DoctorRequest, Event, EventsRequest,
    InspectReply, InspectRequest, KillReply, KillRequest, ListReply, ListRequest, LogChunk, LogsRequest,
    OfferedPath, RemoveReply, RemoveRequest, RunSpec, Session as Shown, StopReply, StopRequest, Timing,
    VersionReply, VersionRequest, WatchRequest,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::connection::Caller;
use agentd_request::malformed;

use self::events::{Filter, Scope};
use self::logs::Reading;
use crate::error::refused;
use crate::host::Host;
use crate::lifecycle::{self, build};
use crate::metrics::metrics;
use crate::quota::slots::{Slot, Slots, crowded};
use crate::session::registry::Access;
use crate::session::{Phase, Session};
use crate::store::record::Record;

/// What is worth a thread of its own to parse, in bytes.
const LARGE: usize = 32 << 10;
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
    /// The session that `spec` asks for, by the site's rules. Its profile is the client's, resolved.
    async fn permit(
        &self,
        caller: &Caller,
        spec: RunSpec,
        offered: &[OfferedPath],
    ) -> Result<(Permit, Profile), Refusal> {
        let host = &self.0;
        let site = host.site();
        let facts = host.users.facts(caller.peer.uid, site.config.allow_root).await?;
        let bounds = site.config.bounds.of_groups(&caller.groups);
        let (profile, spec) = resolved(spec).await?;
        let mut request = agentd_request::parse(spec, self.new_id()?)?;
        request.offered = Some(agentd_request::offered(offered)?);
        Ok((decide(&request, &profile, &bounds, &site.upstream, &facts)?, profile))
    }

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

    fn new_id(&self) -> Result<SessionId, Refusal> {
        let fail = || Refusal::new("a session id", Rule::SessionId, "try again");
        let mut bytes = [0; 6];
        let got =
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|_| fail())?;
        let id = SessionId::from_random(bytes);
        // One in 2^48 for each that was ever here.
        if got != bytes.len() || self.0.store.has(&id) { Err(fail()) } else { Ok(id) }
    }

    async fn created(&self, caller: Caller, request: CreateRequest) -> Result<CreateReply, Refusal> {
        let (host, began) = (&self.0, Instant::now());
        host.store.check()?;
        let spec = request.spec.ok_or_else(|| malformed("a request without a spec", Rule::RequestSpec))?;
        let ticket = ticket(&request.ticket)?;
        let (name, detach) = (agentd_request::name(&spec)?, spec.detach);
        let (permit, profile) = self.permit(&caller, spec, &request.paths).await?;
        let plan = permit.into_plan();
        let profile = profile.name.map(|name| name.to_string()).unwrap_or_default();
        let (log, output) = (host.store.log(&plan.session), host.store.output(&plan.session));
        output.begin();
        let mut record = Record::new(&plan, name, caller.peer.uid, profile, detach);
        if let Some(facts) = host.launcher.facts() {
            record.limits.open_files = record.limits.open_files.min(facts.open_files);
            if record.overlay {
                record.limits.disk_form = facts.disk.as_str().to_owned();
            }
        }
        let (session, asks) = Session::new(record, log, output);
        match host.registry.insert(&session) {
            Ok(Some(removed)) => {
                // That may wait for the disk: the request does not.
                let host = host.clone();
                tokio::spawn(async move { lifecycle::remove(&host, &removed).await });
            }
            Ok(None) => {}
            Err(refusal) => {
                session.log.close();
                return Err(refusal);
            }
        }
        let id = session.id.to_string();
        let decided = began.elapsed();
        let (answer, answered) = oneshot::channel();
        let order = build::Order { plan, ticket, creator: caller.gone, line: caller.line };
        // A task of its own: a client that goes away does not leave half a session.
        tokio::spawn(build::run(host.clone(), session, order, asks, answer));
        let timings = answered.await.map_err(|_| {
            Refusal::new(format!("session {id}"), Rule::ServiceFailed, "look at the log of agentd")
        })??;
        let took = began.elapsed();
        metrics().session_created(took);
        tracing::debug!(session = %id, ?decided, ?took, "session created");
        let timings = timings
            .into_iter()
            .map(|t| Timing { step: t.step, start_us: t.start_us, end_us: t.end_us })
            .collect();
        Ok(CreateReply { id, timings })
    }
}

/// Refused requests do not fill the log: a metric counts them.
fn refused_session(peer: &Peer, refusal: &Refusal) {
    tracing::debug!(user = peer.uid, pid = peer.pid, rule = refusal.rule.name(), error = %refusal, "session refused");
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

fn ticket(bytes: &[u8]) -> Result<Ticket, Refusal> {
    let malformed = |_| malformed(format!("a ticket of {} bytes", bytes.len()), Rule::RequestTicket);
    <[u8; 32]>::try_from(bytes).map(Ticket).map_err(malformed)
}

/// The profile of `spec`: a long one is read on a thread of its own.
async fn resolved(spec: RunSpec) -> Result<(Profile, RunSpec), Refusal> {
    if spec.profile.len() < LARGE {
        return Ok((agentd_request::profile(&spec)?, spec));
    }
    tokio::task::spawn_blocking(move || Ok((agentd_request::profile(&spec)?, spec))).await.map_err(|_| {
        Refusal::new("the profile", Rule::ProfileForm, "it could not be read; make it simpler")
    })?
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
        deny(created.inspect_err(|refusal| refused_session(&peer, refusal))).map(Response::new)
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
