//! What a session may reach: decided at its start, changed by its keeper alone, kept for the next service.

use super::*;
use agentd_policy::egress::Egress;
use agentd_policy::network::Change;
use agentd_policy::resolver::Resolver;

const SITE: &str = "[egress]\nresolvers = ['192.0.2.53']\nallow_private_ranges = ['10.1.0.0/16']";

fn reaching() -> RunSpec {
    let (allow, deny) = (vec!["a.example:443".into()], vec!["x.example".into()]);
    RunSpec { allow, deny, detach: true, ..spec() }
}

async fn network(client: &Client, id: &str) -> Option<Network> {
    client.clone().inspect(InspectRequest { id: id.into() }).await.unwrap().into_inner().network
}

/// What a keeper makes of its plan for somebody.
fn changed(played: &Played, allow: &[&str], deny: &[&str]) -> (Egress, String) {
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let change = Change::parse(&texts(allow), &texts(deny)).unwrap();
    (change.apply(played.plan.egress.as_ref().unwrap()).unwrap(), change.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_has_the_sites_resolvers_and_a_change_is_its_keepers_word() {
    let mut stage = Stage::with("policy", SITE);
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, reaching()).await;
    let egress = played.plan.egress.clone().unwrap();
    assert_eq!(egress.resolvers, [Resolver::parse("192.0.2.53").unwrap()]);
    assert_eq!(stage.host.site().config.egress.check(&egress), Ok(()));
    played.say(1, EventBody::Started).await;
    let shown = network(&client, &played.id).await.unwrap();
    assert_eq!((shown.allow, shown.deny), (vec!["a.example:443".into()], vec!["x.example".into()]));
    assert_eq!(shown.resolvers, ["192.0.2.53:53"]);

    let (egress, change) = changed(&played, &["b.example"], &["c.a.example"]);
    let recorded = FromKeeper::Egress(Box::new(egress));
    played.sender.send(&wire::encode(&recorded).unwrap(), &[]).unwrap();
    played.say(2, EventBody::Policy { change, uid: ALICE.uid }).await;
    while played.acknowledged().await < 2 {}
    let event = all(events(&client, &played.id, false).await).await.pop().unwrap();
    let policy = event.policy.unwrap();
    assert_eq!((event.kind.as_str(), policy.user.as_deref()), ("policy.changed", Some("alice")));
    assert_eq!(policy.change, "allow b.example:80,443, deny c.a.example");
    let shown = network(&client, &played.id).await.unwrap();
    assert_eq!(shown.allow, ["a.example:443", "b.example:80,443"]);
    assert_eq!(shown.deny, ["x.example", "c.a.example"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_a_network_has_a_resolver_that_allows_nothing() {
    let mut stage = Stage::with("closed", SITE);
    let client = stage.connect(ALICE).await;
    let closed = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    let egress = closed.plan.egress.clone().unwrap();
    assert!(egress.is_closed() && !egress.sealed && egress.announce_proxy && egress.sockets() == 6);
    let shown = network(&client, &closed.id).await.unwrap();
    assert_eq!((shown.allow.len(), shown.resolvers.len()), (0, 1));
    let nobody = RunSpec { allow: vec!["192.0.2.1".into()], ..spec() };
    let refusal = client.clone().create(request(nobody)).await.unwrap_err();
    assert_eq!(rule(&refusal), "network.host");
}
