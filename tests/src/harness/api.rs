//! The API itself, without agentctl: one connection of one user.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use agentd_kernel::account::Account;
use agentd_kernel::packets::Packets;
use agentd_policy::Refusal;
use agentd_policy::config::Bounds;
use agentd_policy::consent::Consent;
use agentd_policy::decide::{Permit, decide};
use agentd_policy::library::Library;
use agentd_policy::names::{ProfileName, SessionId};
use agentd_policy::network::Upstream;
use agentd_policy::offer::{FromClient, Grant, Offer, Site, ToClient};
use agentd_policy::request::CallerFacts;
use agentd_policy::wire::{MAX_PACKET, decode, encode};
use agentd_proto::v1::sessions_client::SessionsClient;
use agentd_proto::v1::{CreateRequest, EnvVar, OfferedPath, RunSpec};
use hyper_util::rt::TokioIo;
use prost::bytes::{Buf as _, BufMut as _};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::runtime::Runtime;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};

use super::daemon::Daemon;
use super::peer::as_user;
use super::users::User;
use super::world::World;

/// Longer than any answer takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the daemon as one user.
#[derive(Debug)]
pub struct Api {
    runtime: Runtime,
    client: SessionsClient<Channel>,
    channel: Channel,
    user: User,
    offers: std::path::PathBuf,
}

impl Api {
    /// Connects as `user`.
    ///
    /// # Errors
    /// If the user may not.
    pub fn connect(daemon: &Daemon, user: &User) -> io::Result<Self> {
        let stream = daemon.connect_as(user, |path| UnixStream::connect(path), "agentd.sock")?;
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let inside = runtime.enter();
        let mut stream = Some(TokioIo::new(tokio::net::UnixStream::from_std(stream)?));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            async move { stream }
        });
        let channel = Endpoint::from_static("http://agentd").connect_with_connector_lazy(connector);
        let client = SessionsClient::new(channel.clone()).max_decoding_message_size(agentd_proto::MAX_REPLY);
        drop(inside);
        Ok(Self { runtime, client, channel, user: user.clone(), offers: daemon.runtime().join("offer.sock") })
    }

    /// The generated client on this connection.
    pub fn client(&self) -> SessionsClient<Channel> {
        self.client.clone()
    }

    /// Waits for an answer.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn wait<T>(&self, question: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(CALL_TIMEOUT, question).await };
        self.runtime.block_on(limited).expect("an answer in time")
    }

    /// Asks.
    ///
    /// # Errors
    /// The status.
    #[track_caller]
    pub fn ask<T>(&self, question: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.wait(question).map(Response::into_inner)
    }

    /// Starts something that goes on beside the test.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// A call by its path alone, such as `/grpc.health.v1.Health/Check`: the first message of its answer.
    ///
    /// # Errors
    /// The status.
    pub fn raw(&self, path: &'static str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        self.wait(async move {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let request = tonic::Request::new(tokio_stream::once(message));
            let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
            let mut answers = grpc.streaming(request, path, Bytes).await?.into_inner();
            answers.message().await.map(Option::unwrap_or_default)
        })
    }

    /// Decides, opens and offers what is wanted, and creates a session: its id.
    ///
    /// # Errors
    /// The status of the refusal.
    pub fn create(&self, spec: RunSpec) -> Result<String, Status> {
        let (held, request) = self.prepared(spec);
        let reply = self.ask(self.client().create(request));
        drop(held);
        reply.map(|reply| reply.id)
    }

    /// All of that but the last call. The socket has to be held until then. What breaks a rule is offered nothing for:
    /// it is the daemon's to refuse.
    pub fn prepared(&self, spec: RunSpec) -> (Option<Packets>, CreateRequest) {
        let user = &self.user;
        as_user(user.uid, user.gid, &user.groups(), || {
            let side = side_socket(&self.offers);
            let ToClient::Site(site) = answer(&side) else { panic!("the launcher does not say what it is") };
            let Ok(permit) = permit(user, &site, &spec) else {
                let (role, mode) = ("workspace".into(), "overlay".into());
                let paths = vec![OfferedPath { path: spec.cwd.clone(), role, mode }];
                return (None, CreateRequest { spec: Some(spec), ticket: vec![0; 32].into(), paths });
            };
            let open = |wanted: &agentd_policy::request::Wanted| -> (Grant, OwnedFd) {
                let grant = Grant { role: wanted.role, mode: wanted.mode };
                (grant, std::fs::File::open(wanted.path.as_str()).expect("the user's own").into())
            };
            let opened: Vec<_> = permit.wanted().iter().map(open).collect();
            let paths = permit.wanted().iter().map(agentd_request::offered_path).collect();
            let consent = Consent::to(permit.plan()).expect("a plan");
            let grants = opened.iter().map(|(grant, _)| *grant).collect();
            let packet = encode(&FromClient::Offer(Box::new(Offer { consent, grants })))
                .expect("an offer within bounds");
            let borrowed: Vec<_> = opened.iter().map(|(_, fd)| fd.as_fd()).collect();
            side.send(&packet, &borrowed).expect("an offer");
            let ToClient::Held(ticket) = answer(&side) else { panic!("an offer is refused") };
            (Some(side), CreateRequest { spec: Some(spec), ticket: ticket.0.to_vec().into(), paths })
        })
    }
}

/// What `spec` comes to for `user`, by the rules that a client has. Paths are their own names here.
fn permit(user: &User, site: &Site, spec: &RunSpec) -> Result<Permit, Refusal> {
    let Account { user: name, home, shell } = Account::of(user.uid)?;
    let caller = CallerFacts { uid: user.uid, user: name, home, shell, allow_root: site.allow_root };
    let upstream = Upstream {
        resolvers: site.resolvers.clone().unwrap_or_default(),
        search: Vec::new(),
        allow_private_ranges: site.allow_private_ranges.clone(),
        proxy: site.proxy,
    };
    let id = SessionId::from_random([0; 6]);
    let request = agentd_request::parse(spec.clone(), id)?;
    decide(&request, &agentd_request::profile(spec)?, &site.bounds, &upstream, &caller)
}

fn side_socket(path: &Path) -> Packets {
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a socket");
    rustix::net::connect(&fd, &SocketAddrUnix::new(path).expect("a short name")).expect("a member");
    Packets::from_fd(fd)
}

fn answer(socket: &Packets) -> ToClient {
    let packet = socket.receive(MAX_PACKET, 0).expect("an answer").expect("an answer");
    decode(&packet.bytes).expect("an answer")
}

/// The default profile, resolved for a site without bounds of its own.
fn default_profile() -> String {
    let library = Library { files: &[], site: &|_| Ok(None), bounds: &Bounds::default() };
    let profile = library.resolve(&ProfileName::parse("default").expect("a name")).expect("built in");
    profile.to_toml().expect("TOML")
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

impl World {
    /// A connection to the API as `user`.
    ///
    /// # Panics
    /// If the user may not connect.
    pub fn api(&self, user: &User) -> Api {
        Api::connect(self.daemon(), user).expect("a member may connect")
    }

    /// What `agentctl run --detach -- COMMAND` in `cwd` asks for.
    pub fn spec(&self, user: &User, cwd: &Path, command: &[&str]) -> RunSpec {
        let var = |key: &str, value: &str| EnvVar {
            key: key.as_bytes().to_vec().into(),
            value: value.as_bytes().to_vec().into(),
        };
        RunSpec {
            profile: default_profile(),
            name: self.unique("s"),
            command: command.iter().map(|word| word.as_bytes().to_vec().into()).collect(),
            caller_env: vec![var("PATH", "/usr/bin:/bin"), var("USER", &user.name)],
            cwd: cwd.display().to_string(),
            detach: true,
            ..RunSpec::default()
        }
    }
}
