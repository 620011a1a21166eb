//! A daemon that follows a script: one scene for each stream that a client opens.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::attach_output::Kind as Out;
use agentd_proto::v1::sessions_server::{Sessions, SessionsServer};
use agentd_proto::v1::*;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// How long what was sent may take to arrive before the connection breaks.
const ARRIVAL: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    No,
    Bytes(usize),
    Eof,
    Detach,
}

/// What a stream shows. Without an exit the connection breaks at its end.
pub struct Scene {
    first: Vec<Out>,
    wait: Wait,
    then: Vec<Out>,
    known: bool,
}

impl Scene {
    pub fn new(first: Vec<Out>) -> Self {
        Self { first, wait: Wait::No, then: vec![], known: true }
    }

    pub fn after_input(first: Vec<Out>, bytes: usize) -> Self {
        Self { wait: Wait::Bytes(bytes), ..Self::new(first) }
    }

    pub fn until_eof(first: Vec<Out>, then: Vec<Out>) -> Self {
        Self { wait: Wait::Eof, then, ..Self::new(first) }
    }

    pub fn until_detached(first: Vec<Out>) -> Self {
        Self { wait: Wait::Detach, ..Self::new(first) }
    }

    pub fn unknown() -> Self {
        Self { known: false, ..Self::new(vec![]) }
    }
}

#[derive(Default)]
struct Record {
    opened: Vec<AttachOpen>,
    messages: Vec<Vec<In>>,
    connection: Option<OwnedFd>,
}

#[derive(Clone)]
struct Stage {
    scenes: Arc<Mutex<VecDeque<Scene>>>,
    record: Arc<Mutex<Record>>,
}

pub struct Daemon {
    dir: PathBuf,
    socket: PathBuf,
    record: Arc<Mutex<Record>>,
}

impl Daemon {
    pub fn play(scenes: Vec<Scene>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("agentctl-attach-{}-{number}", std::process::id()));
        std::fs::remove_dir_all(&dir).ok();
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("agentd.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let record = Arc::<Mutex<Record>>::default();
        let stage = Stage { scenes: Arc::new(Mutex::new(scenes.into())), record: record.clone() };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let record = stage.record.clone();
                let incoming = UnixListenerStream::new(listener).map(move |stream| {
                    let held = stream.as_ref().ok().map(|s| s.as_fd().try_clone_to_owned().unwrap());
                    record.lock().unwrap().connection = held;
                    stream
                });
                let server = tonic::transport::Server::builder().add_service(SessionsServer::new(stage));
                server.serve_with_incoming(incoming).await.unwrap();
            });
        });
        Self { dir, socket, record }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn opened(&self) -> Vec<AttachOpen> {
        self.record.lock().unwrap().opened.clone()
    }

    pub fn messages(&self, scene: usize) -> Vec<In> {
        self.record.lock().unwrap().messages[scene].clone()
    }

    pub fn input(&self, scene: usize) -> Vec<u8> {
        let bytes = |kind: &In| match kind {
            In::Stdin(bytes) => bytes.to_vec(),
            _ => vec![],
        };
        self.messages(scene).iter().flat_map(bytes).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

type Outputs = ReceiverStream<Result<AttachOutput, Status>>;

impl Stage {
    async fn follow(&self, request: Request<Streaming<AttachInput>>) -> Result<Response<Outputs>, Status> {
        let mut input = request.into_inner();
        let open = match input.message().await?.and_then(|message| message.kind) {
            Some(In::Open(open)) => open,
            Some(In::Exec(exec)) => AttachOpen { id: exec.id, ..AttachOpen::default() },
            other => panic!("the first message is {other:?}"),
        };
        let scene = self.scenes.lock().unwrap().pop_front().unwrap();
        if !scene.known {
            let details = ErrorDetails::with_error_info("session.unknown", "agentd", []);
            return Err(Status::with_error_details(tonic::Code::NotFound, "no such session", details));
        }
        let number = {
            let mut record = self.record.lock().unwrap();
            record.opened.push(open);
            record.messages.push(vec![]);
            record.messages.len() - 1
        };
        let (to, outputs) = mpsc::channel(8);
        tokio::spawn(self.clone().perform(scene, number, input, to));
        Ok(Response::new(ReceiverStream::new(outputs)))
    }

    async fn perform(
        self,
        scene: Scene,
        number: usize,
        mut input: Streaming<AttachInput>,
        to: mpsc::Sender<Result<AttachOutput, Status>>,
    ) {
        let ends = scene.wait == Wait::Detach
            || scene.first.iter().chain(&scene.then).any(|k| matches!(k, Out::Exit(_)));
        for kind in scene.first {
            to.send(Ok(AttachOutput { kind: Some(kind) })).await.unwrap();
        }
        let mut bytes = 0;
        let mut over = scene.wait == Wait::No;
        while !over {
            let Ok(Some(AttachInput { kind: Some(kind) })) = input.message().await else { break };
            bytes += if let In::Stdin(bytes) = &kind { bytes.len() } else { 0 };
            over = match (scene.wait, &kind) {
                (Wait::Bytes(wanted), _) => bytes >= wanted,
                (wait, In::StdinEof(_)) => wait == Wait::Eof,
                (wait, In::Detach(_)) => wait == Wait::Detach,
                _ => false,
            };
            self.record.lock().unwrap().messages[number].push(kind);
        }
        for kind in scene.then {
            to.send(Ok(AttachOutput { kind: Some(kind) })).await.unwrap();
        }
        if !ends {
            tokio::time::sleep(ARRIVAL).await;
            let connection = self.record.lock().unwrap().connection.take().unwrap();
            rustix::net::shutdown(connection, rustix::net::Shutdown::Both).unwrap();
        }
    }
}

#[tonic::async_trait]
impl Sessions for Stage {
    type AttachStream = Outputs;
    type ExecStream = Outputs;
    type EventsStream = ReceiverStream<Result<Event, Status>>;
    type WatchStream = ReceiverStream<Result<Session, Status>>;
    type LogsStream = ReceiverStream<Result<LogChunk, Status>>;

    async fn attach(&self, request: Request<Streaming<AttachInput>>) -> Result<Response<Outputs>, Status> {
        self.follow(request).await
    }

    async fn exec(&self, request: Request<Streaming<AttachInput>>) -> Result<Response<Outputs>, Status> {
        self.follow(request).await
    }

    async fn create(&self, _: Request<CreateRequest>) -> Result<Response<CreateReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn logs(&self, _: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn kill(&self, _: Request<KillRequest>) -> Result<Response<KillReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn reviewed(&self, _: Request<ReviewedRequest>) -> Result<Response<ReviewedReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn remove(&self, _: Request<RemoveRequest>) -> Result<Response<RemoveReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn events(&self, _: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn doctor(&self, _: Request<DoctorRequest>) -> Result<Response<DoctorReply>, Status> {
        Err(Status::unimplemented("not played"))
    }
}
