//! The connection to the daemon: one Unix socket, one gRPC channel, never made anew.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentd_proto::MAX_REPLY;
use agentd_proto::v1::sessions_client::SessionsClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::failure::{Failure, Kind};
use agentd_policy::rule::Rule;

/// The daemon's methods.
pub type Client = SessionsClient<Channel>;

/// Where the daemon listens if nobody says otherwise.
const DEFAULT: &str = "/run/agentd/agentd.sock";
/// How long to try while the daemon has more connections waiting than it takes up.
const FULL: Duration = Duration::from_secs(30);
/// Between two tries: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));
/// How long a short question may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Where the daemon listens.
#[derive(Clone, Debug)]
pub struct Socket(PathBuf);

impl Socket {
    /// The flag's path, else the environment's, else the default.
    pub fn choose(flag: Option<PathBuf>) -> Self {
        let named = || std::env::var_os("AGENTD_SOCKET").filter(|p| !p.is_empty()).map(PathBuf::from);
        Self(flag.or_else(named).unwrap_or_else(|| DEFAULT.into()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Connects.
    ///
    /// # Errors
    /// If nobody listens there, or the user may not connect.
    pub async fn connect(&self) -> Result<Client, Failure> {
        let stream = dial(&self.0).await.map_err(|error| unreachable(&self.0, &error))?;
        let mut stream = Some(TokioIo::new(stream));
        // Offers and tickets hold for one connection's life: a second one would not help.
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            async move { stream }
        });
        let channel = Endpoint::from_static("http://agentd")
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(4 << 20)
            .max_frame_size(128 << 10)
            .connect_with_connector_lazy(connector);
        Ok(Client::new(channel).max_decoding_message_size(MAX_REPLY))
    }
}

/// Connects. While as many wait there already as the kernel lets wait, so does this, for a while.
async fn dial(path: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + FULL;
    let mut pause = PAUSE.0;
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            done => return done,
        }
    }
}

/// Nothing answers at `path`, or the user may not connect.
pub fn unreachable(path: &Path, error: &io::Error) -> Failure {
    let socket = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::Refused {
            what: format!("a connection to {socket}"),
            rule: Rule::SocketPermission.into(),
            hint: "become a member of the group that the socket belongs to, usually agentd".into(),
            kind: Kind::NotPermitted,
        },
        _ => Failure::Failed {
            message: format!(
                "cannot reach agentd at {socket}: {error}; start it (sudo systemctl start agentd), or name its socket by --socket"
            ),
            kind: Kind::Unreachable,
        },
    }
}

/// The answer to a short question, or the failure to get one in time.
///
/// # Errors
/// The daemon's refusal, or that it does not answer.
pub async fn answer<T>(
    question: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Failure> {
    answer_within(ANSWER, question).await
}

/// The same for a question that may take so long.
///
/// # Errors
/// The daemon's refusal, or that it does not answer.
pub async fn answer_within<T>(
    time: Duration,
    question: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(time, question).await {
        Ok(reply) => Ok(reply?.into_inner()),
        Err(_) => Err(Failure::unreachable(format!("agentd did not answer within {} s", time.as_secs()))),
    }
}
