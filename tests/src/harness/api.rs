//! The API itself, without agentctl: one connection of one user.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use agentd_kernel::offer::{self, Answer, Grant, MAX_ANSWER, Mode, Role};
use agentd_kernel::packets::Packets;
use agentd_proto::v1::sessions_client::SessionsClient;
use agentd_proto::v1::{CreateRequest, EnvVar, ResolveRequest, RunSpec, WantedPath};
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
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
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

    /// Its methods.
    pub fn client(&self) -> SessionsClient<Channel> {
        self.client.clone()
    }

    /// Waits for an answer.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn wait<T>(&self, question: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(PATIENCE, question).await };
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

    /// Resolves, opens and offers what is wanted, and creates a session: its id.
    ///
    /// # Errors
    /// The status of whichever call was refused.
    pub fn create(&self, spec: RunSpec) -> Result<String, Status> {
        let (offer, request) = self.prepared(spec)?;
        let reply = self.ask(self.client().create(request));
        drop(offer);
        reply.map(|reply| reply.id)
    }

    /// All of that but the last call. The socket has to be held until then.
    ///
    /// # Errors
    /// The status of the refusal.
    pub fn prepared(&self, spec: RunSpec) -> Result<(Option<Packets>, CreateRequest), Status> {
        let resolved = self.ask(self.client().resolve(ResolveRequest { spec: Some(spec.clone()) }))?;
        let (offer, ticket) = match resolved.paths.is_empty() {
            true => (None, Vec::new()),
            false => {
                let (socket, ticket) = offered(&self.offers, &self.user, &resolved.paths);
                (Some(socket), ticket.to_vec())
            }
        };
        let request = CreateRequest { spec: Some(spec), ticket: ticket.into(), paths: resolved.paths };
        Ok((offer, request))
    }
}

/// Opens `paths` as `user` and offers them.
pub fn offered(socket: &Path, user: &User, paths: &[WantedPath]) -> (Packets, [u8; 32]) {
    let open = |path: &WantedPath| -> (Grant, OwnedFd) {
        let role = if path.role == "input" { Role::Input } else { Role::Workspace };
        let mode = match path.mode.as_str() {
            "ro" => Mode::Ro,
            "direct" => Mode::Direct,
            _ => Mode::Overlay,
        };
        (Grant { role, mode }, std::fs::File::open(&path.path).expect("the user's own").into())
    };
    let (held, packets) = as_user(user.uid, user.gid, &user.groups(), || {
        let fd =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a socket");
        rustix::net::connect(&fd, &SocketAddrUnix::new(socket).expect("a short name")).expect("a member");
        (paths.iter().map(open).collect::<Vec<_>>(), Packets::from_fd(fd))
    });
    let borrowed: Vec<_> = held.iter().map(|(grant, fd)| (*grant, fd.as_fd())).collect();
    offer::send(&packets, &borrowed).expect("an offer");
    let answer = packets.receive(MAX_ANSWER, 0).expect("an answer").expect("an answer");
    match Answer::parse(&answer.bytes).expect("an answer") {
        Answer::Ticket(ticket) => (packets, ticket),
        refused => panic!("{refused:?}"),
    }
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
            name: self.unique("s"),
            command: command.iter().map(|word| word.as_bytes().to_vec().into()).collect(),
            caller_env: vec![var("PATH", "/usr/bin:/bin"), var("USER", &user.name)],
            cwd: cwd.display().to_string(),
            detach: true,
            ..RunSpec::default()
        }
    }
}
