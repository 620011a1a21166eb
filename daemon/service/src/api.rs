//! The gRPC service. Who calls is what the launcher attested; what may be is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use agentd_policy::Refusal;
use agentd_policy::decide::{Permit, decide};
use agentd_policy::names::SessionId;
use agentd_policy::profile::Profile;
use agentd_policy::wire::Ticket;
use agentd_proto::v1::sessions_server::{Sessions, SessionsServer};
use agentd_proto::v1::{
    AttachInput, AttachOutput, CreateReply, CreateRequest, Event, EventsRequest, KillReply, KillRequest,
    ListReply, ListRequest, RemoveReply, RemoveRequest, ResolveReply, ResolveRequest, RunSpec,
    ShowProfileReply, ShowProfileRequest, Timing, VersionReply, VersionRequest, WantedPath,
};
use agentd_proto::{MAX_MESSAGE, MAX_REPLY};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::connection::Caller;
use crate::error::{malformed, refused};
use crate::events::{self, Filter, Scope};
use crate::host::Host;
use crate::registry::Wish;
use crate::session::{self, Order, Phase, Session};
use crate::slots::Slots;
use crate::{Incoming, attach, profiles, request};

/// Requests and streams at a time on one connection.
const STREAMS: u32 = 16;
/// What may be under way on one stream: less than on the connection, so that a stream which nobody reads
/// does not hold up the others.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The longest frame that is taken, in bytes: a message of stdin is one.
const FRAME: u32 = 96 << 10;
/// How long one request may take until it is answered, or its stream begins.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a session may take to be over when it is to be removed.
const ENDING: Duration = Duration::from_secs(15);
/// What the commands and messages of a list may come to, in bytes.
const LISTED: usize = 1 << 20;
/// Events that wait for a client.
const EVENTS: usize = 64;

/// Serves the clients that come in, for ever.
pub async fn serve(host: Arc<Host>, incoming: Incoming) -> Result<(), tonic::transport::Error> {
    let requests = host.requests.clone();
    let service = SessionsServer::new(Api(host))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_REPLY);
    let service = InterceptedService::new(service, move |request| admit(&requests, request));
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        // Nobody is asked whether it lives: the kernel says when a peer is gone, and one that is stopped
        // (ctrl-z) would not answer and goes on later.
        .http2_max_header_list_size(16 << 10)
        .timeout(PATIENCE)
        .add_service(service)
        .serve_with_incoming(incoming)
        .await
}

struct Api(Arc<Host>);

/// Called before anything of a message is read. What it puts into the request is dropped once the message is
/// there, or will not come.
fn admit(requests: &Arc<Slots>, mut request: Request<()>) -> Result<Request<()>, Status> {
    let uid = caller(&request)?.peer.uid;
    let slot = deny(requests.take(uid).ok_or_else(|| crowded("requests under way", requests)))?;
    request.extensions_mut().insert(Arc::new(slot));
    Ok(request)
}

fn crowded(what: &str, slots: &Slots) -> Refusal {
    Refusal::new(
        format!("more than {} {what} at a time", slots.each()),
        "service.crowded",
        "let some of them end, and try again",
    )
}

/// Who sent `request`. Without that there is no answer.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Status::internal("a connection without a caller"))
}

fn deny<T>(result: Result<T, Refusal>) -> Result<T, Status> {
    result.map_err(|refusal| refused(&refusal))
}

impl Api {
    async fn permit(
        &self,
        caller: &Caller,
        mut spec: RunSpec,
        offered: Option<&[WantedPath]>,
    ) -> Result<(Permit, Profile), Refusal> {
        let host = &self.0;
        let facts = host.users.facts(caller.peer.uid, host.config.root_callers).await?;
        let profile = profiles::resolve(host, spec.profile.take()).await?;
        let mut request = request::parse(spec, self.new_id()?)?;
        request.offered = offered.map(request::offered).transpose()?;
        Ok((decide(&request, &profile, &host.config.bounds, &facts)?, profile))
    }

    fn new_id(&self) -> Result<SessionId, Refusal> {
        let fail = || Refusal::new("a session id", "session.id", "try again");
        let mut bytes = [0; 6];
        let got =
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|_| fail())?;
        let id = SessionId::from_random(bytes);
        // One in 2^48 for each that was ever here.
        if got != bytes.len() || self.0.store.has(&id) { Err(fail()) } else { Ok(id) }
    }

    async fn created(&self, caller: Caller, request: CreateRequest) -> Result<CreateReply, Refusal> {
        let host = &self.0;
        let spec = request.spec.ok_or_else(|| malformed("a request without a spec", "request.spec"))?;
        let (name, remove) = (request::name(&spec)?, spec.remove);
        let (permit, profile) = self.permit(&caller, spec, Some(&request.paths)).await?;
        let ticket = ticket(&request.ticket, permit.wanted().is_empty())?;
        let mut plan = permit.into_plan();
        plan.remove = remove;
        let profile = profile.name.map(|name| name.to_string()).unwrap_or_default();
        let log = host.store.log(&plan.session);
        let (session, signals) = Session::new(&plan, name, caller.peer.uid, profile, remove, log);
        host.registry.insert(&session)?;
        let id = session.id.to_string();
        let (answer, answered) = oneshot::channel();
        let order = Order { plan, ticket, caller };
        // A task of its own: a client that goes away does not leave half a session.
        tokio::spawn(session::run(host.clone(), session, order, signals, answer));
        let timings = answered.await.map_err(|_| {
            Refusal::new(format!("session {id}"), "service.failed", "look at the log of agentd")
        })??;
        let timings = timings
            .into_iter()
            .map(|t| Timing { step: t.step, start_us: t.start_us, end_us: t.end_us })
            .collect();
        Ok(CreateReply { id, timings })
    }

    async fn removed(&self, caller: Caller, request: RemoveRequest) -> Result<RemoveReply, Refusal> {
        let host = &self.0;
        let session = host.registry.find(&request.id, &caller.peer, Wish::Steer)?;
        if session.phase() < Phase::Ended {
            if !request.force {
                return Err(Refusal::new(
                    format!("session {}, which runs", session.id),
                    "session.running",
                    "end it first, or use --force",
                ));
            }
            session.kill.cancel();
        }
        if tokio::time::timeout(ENDING, session.reached(Phase::Over)).await.is_err() {
            return Err(Refusal::new(
                format!("session {}", session.id),
                "session.ending",
                "it is still ending; try again",
            ));
        }
        if session.overlay && !session.remove {
            host.launcher.remove(caller.line.number(), session.uid, session.id.clone()).await?;
        }
        host.registry.remove(&session.id);
        Ok(RemoveReply { id: session.id.to_string() })
    }

    fn killed(&self, caller: &Caller, request: &KillRequest) -> Result<KillReply, Refusal> {
        let session = self.0.registry.find(&request.id, &caller.peer, Wish::Look)?;
        if session.phase() >= Phase::Ended {
            return Err(Refusal::new(
                format!("session {}", session.id),
                "session.ended",
                "it has ended already",
            ));
        }
        match request.signal {
            None | Some(9) => session.kill.cancel(),
            Some(signal) => session.signal(signal)?,
        }
        Ok(KillReply { id: session.id.to_string() })
    }
}

fn ticket(bytes: &[u8], none_needed: bool) -> Result<Option<Ticket>, Refusal> {
    match (<[u8; 32]>::try_from(bytes), none_needed) {
        (Ok(ticket), _) => Ok(Some(Ticket(ticket))),
        (Err(_), true) if bytes.is_empty() => Ok(None),
        (Err(_), _) => Err(malformed(format!("a ticket of {} bytes", bytes.len()), "request.ticket")),
    }
}

#[tonic::async_trait]
impl Sessions for Api {
    type AttachStream = ReceiverStream<Result<AttachOutput, Status>>;
    type EventsStream = ReceiverStream<Result<Event, Status>>;

    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveReply>, Status> {
        let caller = caller(&request)?;
        let spec = request.into_inner().spec;
        let spec = deny(spec.ok_or_else(|| malformed("a request without a spec", "request.spec")))?;
        let (permit, _) = deny(self.permit(&caller, spec, None).await)?;
        let plan_json = serde_json::to_string_pretty(&dry(&permit))
            .map_err(|e| Status::internal(format!("plan as JSON: {e}")))?;
        let paths = permit.wanted().iter().map(request::wanted).collect();
        Ok(Response::new(ResolveReply { paths, plan_json, offer_socket: self.0.config.offer_socket() }))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateReply>, Status> {
        let caller = caller(&request)?;
        deny(self.created(caller, request.into_inner()).await).map(Response::new)
    }

    async fn attach(
        &self,
        request: Request<Streaming<AttachInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = caller(&request)?;
        attach::attach(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let visible = self.0.registry.visible(&caller(&request)?.peer);
        let all = request.into_inner().all;
        let shown: Vec<_> =
            visible.iter().filter(|s| s.phase() < Phase::Ended || all && !s.is_forgotten()).collect();
        // However many there are, and whatever others wrote into theirs, it fits into one message.
        let each = LISTED / shown.len().max(1);
        Ok(Response::new(ListReply { sessions: shown.iter().map(|s| s.show(each)).collect() }))
    }

    async fn kill(&self, request: Request<KillRequest>) -> Result<Response<KillReply>, Status> {
        let caller = caller(&request)?;
        deny(self.killed(&caller, request.get_ref())).map(Response::new)
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveReply>, Status> {
        let caller = caller(&request)?;
        deny(self.removed(caller, request.into_inner()).await).map(Response::new)
    }

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let peer = caller(&request)?.peer;
        let request = request.into_inner();
        let filter = deny(Filter::parse(&request))?;
        let scope = match request.id.as_str() {
            "" => Scope::All(peer),
            id => Scope::One(deny(self.0.registry.find(id, &peer, Wish::Look))?),
        };
        let followers = &self.0.followers;
        let slot = deny(followers.take(peer.uid).ok_or_else(|| crowded("streams of events", followers)))?;
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

    async fn show_profile(
        &self,
        request: Request<ShowProfileRequest>,
    ) -> Result<Response<ShowProfileReply>, Status> {
        let profile = deny(profiles::resolve(&self.0, request.into_inner().profile).await)?;
        let toml = deny(profile.to_toml())?;
        Ok(Response::new(ShowProfileReply { toml }))
    }
}

/// The plan for a person to read: texts instead of bytes, and no identity yet.
fn dry(permit: &Permit) -> serde_json::Value {
    let plan = permit.plan();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    serde_json::json!({
        "user": plan.user,
        "home": plan.home,
        "shell": plan.shell,
        "command": plan.command.iter().map(|word| text(word)).collect::<Vec<_>>(),
        "env": plan.env.iter().map(|(k, v)| (text(k), text(v))).collect::<std::collections::BTreeMap<_, _>>(),
        "cwd": plan.cwd,
        "terminal": plan.terminal,
        "workspaces": plan.workspaces,
        "inputs": plan.inputs,
        "scratch": plan.scratch,
        "home_size": plan.home_size,
        "limits": plan.limits,
        "landlock_abi": plan.landlock_abi,
    })
}
