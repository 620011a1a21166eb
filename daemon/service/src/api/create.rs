//! How a session is created: from the request to the plan, and to the build's answer.

use std::time::Instant;

use agentd_policy::Refusal;
use agentd_policy::decide::{Permit, decide};
use agentd_policy::names::SessionId;
use agentd_policy::profile::Profile;
use agentd_policy::rule::Rule;
use agentd_policy::wire::{Peer, Ticket};
use agentd_proto::v1::{CreateReply, CreateRequest, OfferedPath, RunSpec, Timing};
use agentd_request::malformed;
use tokio::sync::oneshot;

use super::Api;
use super::connection::Caller;
use crate::lifecycle::{self, build};
use crate::metrics::metrics;
use crate::session::Session;
use crate::store::record::Record;

/// What is worth a thread of its own to parse, in bytes.
const LARGE: usize = 32 << 10;

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

    fn new_id(&self) -> Result<SessionId, Refusal> {
        let fail = || Refusal::new("a session id", Rule::SessionId, "try again");
        let mut bytes = [0; 6];
        let got =
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|_| fail())?;
        let id = SessionId::from_random(bytes);
        // One in 2^48 for each that was ever here.
        if got != bytes.len() || self.0.store.has(&id) { Err(fail()) } else { Ok(id) }
    }

    pub(super) async fn created(
        &self,
        caller: Caller,
        request: CreateRequest,
    ) -> Result<CreateReply, Refusal> {
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
        let (session, requests) = Session::new(record, log, output);
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
        let order = build::Order { plan, ticket, creator: caller.gone, handle: caller.handle };
        // A task of its own: a client that goes away does not leave half a session.
        tokio::spawn(build::run(host.clone(), session, order, requests, answer));
        let timings = answered.await.map_err(|_| {
            Refusal::new(format!("session {id}"), Rule::ServiceFailed, "look at the log of agentd")
        })??;
        let took = began.elapsed();
        metrics().session_created(took);
        tracing::debug!(session = %id, ?decided, ?took, "session created");
        let timings = timings
            .into_iter()
            .map(|t| Timing { step: t.step.to_string(), start_us: t.start_us, end_us: t.end_us })
            .collect();
        Ok(CreateReply { id, timings })
    }
}

/// Refused requests do not fill the log: a metric counts them.
pub(super) fn log_refused(peer: &Peer, refusal: &Refusal) {
    tracing::debug!(user = peer.uid, pid = peer.pid, rule = refusal.rule.name(), error = %refusal, "session refused");
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
