//! What a running session may reach: how it is shown, and how it is changed.

use agentd_policy::Refusal;
use agentd_policy::caps::{Capped, Caps};
use agentd_policy::egress::Egress;
use agentd_policy::names::SessionId;
use agentd_policy::network::{Change, MAX_CHANGE};
use agentd_proto::v1::{Cap, ChangePolicyRequest, Network};
use tokio::sync::oneshot;

use crate::store::Line;
use agentd_request::malformed;

/// Changes that a keeper has not answered.
const MAX_WAITING: usize = 64;

/// As the API shows it.
pub fn show(egress: &Egress) -> Network {
    Network {
        allow: egress.rules().map(|rule| rule.to_string()).collect(),
        deny: egress.hosts.deny.iter().map(ToString::to_string).collect(),
        resolvers: egress.resolvers.iter().map(ToString::to_string).collect(),
        proxy_env: egress.announce_proxy,
        caps: egress.caps.iter().map(cap).collect(),
        publish: published(egress),
        dns_types: egress.dns_types.iter().map(ToString::to_string).collect(),
    }
}

fn cap(Capped { rule, caps }: &Capped) -> Cap {
    let Caps { connections, sent } = caps;
    // No plan has a cap of 0.
    Cap { rule: rule.to_string(), max_connections: connections.unwrap_or(0), max_sent: sent.unwrap_or(0) }
}

/// The ports that it publishes, as the API shows them.
pub fn published(egress: &Egress) -> Vec<String> {
    egress.publish.iter().map(ToString::to_string).collect()
}

/// What a client asks for.
pub fn parse(request: &ChangePolicyRequest) -> Result<Change, Refusal> {
    match request.allow.len() + request.deny.len() {
        0 => Err(malformed("a change of nothing", "request.policy")),
        1..=MAX_CHANGE => Change::parse(&request.allow, &request.deny),
        many => Err(Refusal::new(
            format!("{many} changes at once"),
            "request.size",
            format!("give at most {MAX_CHANGE}, or several times"),
        )),
    }
}

/// A change that somebody waits for.
pub struct Asked {
    pub change: Change,
    who: String,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<(), Refusal>>;

/// The change, for a session's supervisor, and what becomes of it.
pub fn ask(change: Change, who: String) -> (Box<Asked>, oneshot::Receiver<Result<(), Refusal>>) {
    let (answer, answered) = oneshot::channel();
    (Box::new(Asked { change, who, answer }), answered)
}

impl Asked {
    pub fn answer(self, result: Result<(), Refusal>) {
        // Whoever is gone does not want to know.
        let _ = self.answer.send(result);
    }
}

/// Changes that a keeper was told.
#[derive(Default)]
pub struct Changes(Vec<Asked>);

impl Changes {
    /// Whether there is no room for one more. Those that nobody waits for any more are kept only for their author.
    pub fn crowded(&self) -> bool {
        self.0.len() >= MAX_WAITING
    }

    /// One more.
    pub fn wait(&mut self, asked: Asked) {
        self.0.push(asked);
    }

    /// A change that its keeper refused, and who asked for it hears so.
    pub fn refused(&mut self, change: &str, refusal: Refusal) {
        let same = |asked: &Asked| asked.change.to_string() == change;
        if let Some(at) = self.0.iter().position(same) {
            self.0.remove(at).answer(Err(refusal));
        }
    }

    /// The changes that these events say are in force, and who asked for them, which the events then tell.
    pub fn in_force(&mut self, lines: &mut [Line]) -> Vec<(String, Option<Asked>)> {
        let told = lines.iter_mut().filter_map(|line| line.event.policy.as_mut());
        told.map(|policy| {
            let same = |asked: &Asked| asked.change.to_string() == policy.change;
            let awaited = self.0.iter().position(|asked| same(asked) && !asked.answer.is_closed());
            let found = awaited.or_else(|| self.0.iter().position(same));
            let asked = found.map(|at| self.0.remove(at));
            policy.user = asked.as_ref().map(|asked| asked.who.clone());
            (policy.change.clone(), asked)
        })
        .collect()
    }
}

/// A session that has nothing to reach.
pub fn no_network(session: &SessionId) -> Refusal {
    Refusal::new(
        format!("session {session}, which has no network"),
        "network.none",
        "its sockets are made at the start: start another session with --allow",
    )
}

/// A session that does not run.
pub fn ended(session: &SessionId) -> Refusal {
    Refusal::new(
        format!("session {session}"),
        "session.ended",
        "it has ended already: start another with these rules",
    )
}

/// A keeper that does not say that the change is in force.
pub fn unanswered(session: &SessionId) -> Refusal {
    Refusal::new(
        format!("session {session}, which does not answer"),
        "network.unanswered",
        "the change may be in force: look at its events for policy.changed, or end it",
    )
}
