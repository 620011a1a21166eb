//! Requests that end or remove sessions, and the one that examines the host.

use std::time::Duration;

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use agentd_policy::wire;
use agentd_proto::v1::{
    Check, DoctorReply, DoctorRequest, KillReply, KillRequest, Leak, RemoveReply, RemoveRequest,
    ReviewedReply, ReviewedRequest, StopReply, StopRequest,
};

use super::{Api, take};
use crate::api::connection::Caller;
use crate::audit::review::Review;
use crate::lifecycle;
use crate::lifecycle::supervisor::MAX_GRACE;
use crate::session::registry::Access;
use crate::session::{EndRequest, Phase, Session, SessionRequest};
use agentd_request::malformed;

/// How long a session may take to be over when it is to be removed.
const ENDING: Duration = Duration::from_secs(15);
/// Between two attempts to remove a session that the launcher has not cleared away.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a command has after SIGTERM, if the request has no grace.
const GRACE: Duration = Duration::from_secs(10);

impl Api {
    pub(super) async fn removed(
        &self,
        caller: Caller,
        request: RemoveRequest,
    ) -> Result<RemoveReply, Refusal> {
        let host = &self.0;
        let session = host.registry.find(&request.id, &caller.peer, Access::Control)?;
        let status = session.status();
        // Its end may be on record before all of its output has come.
        if status.phase < Phase::Ended && status.ended_us.is_none() {
            if !request.force {
                return Err(Refusal::new(
                    format!("session {}, which runs", session.id),
                    Rule::SessionRunning,
                    "end it first, or use --force",
                ));
            }
            session.end(self.end_request(&caller).await);
        }
        let removing = async {
            session.reached(Phase::Cleared).await;
            match session.overlay && !session.remove {
                true => self.delete_overlay(&caller, &session).await,
                false => Ok(()),
            }
        };
        let ending = || {
            let fix = "it is still ending; try again";
            Refusal::new(format!("session {}", session.id), Rule::SessionEnding, fix)
        };
        tokio::time::timeout(ENDING, removing).await.unwrap_or_else(|_| Err(ending()))?;
        lifecycle::remove(host, &session).await;
        Ok(RemoveReply { id: session.id.to_string() })
    }

    /// After a restart the launcher may not have buried what is known here to have ended: then it is waited for.
    async fn delete_overlay(&self, caller: &Caller, session: &Session) -> Result<(), Refusal> {
        loop {
            let id = session.id.clone();
            match self.0.launcher.remove(&caller.handle, session.uid, id).await {
                Err(refusal) if refusal.rule == Rule::SessionRunning => tokio::time::sleep(AGAIN).await,
                other => return other,
            }
        }
    }

    /// A user says what became of a session's changes. It is nobody else's word.
    pub(super) async fn reviewed(
        &self,
        caller: &Caller,
        request: &ReviewedRequest,
    ) -> Result<ReviewedReply, Refusal> {
        let session = self.0.registry.find(&request.id, &caller.peer, Access::Control)?;
        let review = Review::parse(request)?;
        if session.uid != caller.peer.uid {
            return Err(Refusal::new(
                format!("session {} of another user", session.id),
                Rule::CallerOther,
                "its changes are its user's to review",
            ));
        }
        let _slot = take(&self.0.quotas.watchers, caller, "watchers and stops")?;
        let user = self.0.users.name(caller.peer.uid).await;
        let recording = session.reviewed(&self.0.store, user, review);
        let ending = || {
            Refusal::new(
                format!("session {}", session.id),
                Rule::SessionEnding,
                "it is still ending; try again",
            )
        };
        tokio::time::timeout(ENDING, recording).await.unwrap_or_else(|_| Err(ending()))?;
        Ok(ReviewedReply { id: session.id.to_string() })
    }

    async fn end_request(&self, caller: &Caller) -> EndRequest {
        EndRequest { by: Some(self.0.users.name(caller.peer.uid).await), reason: None }
    }

    pub(super) async fn killed(&self, caller: &Caller, request: &KillRequest) -> Result<KillReply, Refusal> {
        let session = self.0.registry.find(&request.id, &caller.peer, Access::Read)?;
        if session.phase() >= Phase::Ended {
            return Err(Refusal::new(
                format!("session {}", session.id),
                Rule::SessionEnded,
                "it has ended already: start another, agentctl ps lists those that run",
            ));
        }
        match request.signal {
            None | Some(9) => session.end(self.end_request(caller).await),
            Some(signal) => session.signal(0, signal)?,
        }
        Ok(KillReply { id: session.id.to_string() })
    }

    pub(super) async fn stopped(&self, caller: &Caller, request: &StopRequest) -> Result<StopReply, Refusal> {
        let session = self.0.registry.find(&request.id, &caller.peer, Access::Read)?;
        let _slot = take(&self.0.quotas.watchers, caller, "watchers and stops")?;
        let grace = request.grace_ms.map_or(GRACE, Duration::from_millis);
        if grace > MAX_GRACE {
            return Err(malformed(format!("a grace of {} s", grace.as_secs()), Rule::RequestGrace));
        }
        if session.phase() < Phase::Ended {
            let who = self.0.users.name(caller.peer.uid).await;
            // Without a receiver the session has ended.
            session.request(SessionRequest::Stop { who, grace }).await;
        }
        let exit = Some(session.exit().await);
        Ok(StopReply { id: session.id.to_string(), exit })
    }

    pub(super) async fn examined(
        &self,
        caller: &Caller,
        request: &DoctorRequest,
    ) -> Result<DoctorReply, Refusal> {
        if (request.leaks || request.clean) && !caller.peer.admin && caller.peer.uid != 0 {
            return Err(Refusal::new(
                "a look for what others' sessions left behind",
                Rule::CallerAdmin,
                "ask as root or as an admin",
            ));
        }
        let (checks, leaks) =
            self.0.launcher.examine(&caller.handle, request.leaks || request.clean, request.clean).await?;
        let status = |status| match status {
            wire::Status::Ok => "ok",
            wire::Status::Reduced => "reduced",
            wire::Status::Missing => "missing",
        };
        let check = |c: wire::Check| Check {
            name: c.name,
            status: status(c.status).to_owned(),
            found: c.found,
            impact: c.impact,
            fix: c.fix,
        };
        let leak = |l: wire::Leak| Leak { kind: l.kind, what: l.what, cleaned: l.cleaned };
        Ok(DoctorReply {
            checks: checks.into_iter().map(check).collect(),
            leaks: leaks.into_iter().map(leak).collect(),
        })
    }
}
