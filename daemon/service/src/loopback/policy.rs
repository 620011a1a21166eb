//! What a session may reach: decided at its start, changed while it runs, kept for the next service.

use super::*;
use agentd_policy::resolver::Resolver;

const SITE: &str = "[egress]\nresolvers = ['192.0.2.53']\nglobal_also = ['10.1.0.0/16']";

fn reaching() -> RunSpec {
    let (allow, deny) = (vec!["a.example:443".into()], vec!["x.example".into()]);
    RunSpec { allow, deny, detach: true, ..spec() }
}

fn change(id: &str, allow: &[&str], deny: &[&str]) -> ChangePolicyRequest {
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    ChangePolicyRequest { id: id.into(), allow: texts(allow), deny: texts(deny) }
}

async fn network(client: &Client, id: &str) -> Option<Network> {
    client.clone().inspect(InspectRequest { id: id.into() }).await.unwrap().into_inner().network
}

/// What the keeper is told, and its text.
async fn told_policy(played: &Played) -> (Vec<String>, String) {
    let ToKeeper::Policy { egress, change } = played.told().await else { panic!() };
    let rules = egress.rules().map(|rule| rule.to_string());
    (rules.chain(egress.hosts.deny.iter().map(|pattern| format!("not {pattern}"))).collect(), change)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_has_the_sites_resolvers_and_a_change_waits_for_its_keeper() {
    let mut stage = Stage::with("policy", SITE);
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, reaching()).await;
    let egress = played.plan.egress.clone().unwrap();
    assert_eq!(egress.resolvers, [Resolver::parse("192.0.2.53").unwrap()]);
    assert_eq!(egress.check_site(&stage.host.site().config.egress), Ok(()));
    played.say(1, EventBody::Started).await;
    let shown = network(&client, &played.id).await.unwrap();
    assert_eq!((shown.allow, shown.deny), (vec!["a.example:443".into()], vec!["x.example".into()]));
    assert_eq!(shown.resolvers, ["192.0.2.53:53"]);

    let mut asking = client.clone();
    let asked = asking.change_policy(change(&played.id, &["b.example"], &["c.a.example"]));
    let keeper = async {
        let (rules, text) = told_policy(&played).await;
        assert_eq!(rules, ["a.example:443", "b.example:80,443", "not x.example", "not c.a.example"]);
        assert_eq!(text, "allow b.example:80,443, deny c.a.example");
        played.say(2, EventBody::Policy { change: text }).await;
    };
    let (changed, ()) = tokio::join!(asked, keeper);
    assert_eq!(changed.unwrap().into_inner().id, played.id);
    let event = all(events(&client, &played.id, false).await).await.pop().unwrap();
    let policy = event.policy.unwrap();
    assert_eq!((event.kind.as_str(), policy.user.as_deref()), ("policy.changed", Some("alice")));
    assert_eq!(policy.change, "allow b.example:80,443, deny c.a.example");
    assert_eq!(network(&client, &played.id).await.unwrap().allow, ["a.example:443", "b.example:80,443"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_cannot_be_are_refused() {
    let mut stage = Stage::with("unchanged", SITE);
    let (client, bob) = (stage.connect(ALICE).await, stage.connect(BOB).await);
    let played = stage.run(&client, reaching()).await;
    let closed = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    assert_eq!((&closed.plan.egress, network(&client, &closed.id).await), (&None, None));
    let refused = async |client: &Client, request: ChangePolicyRequest| {
        rule(&client.clone().change_policy(request).await.unwrap_err())
    };
    for (request, rule) in [
        (change(&played.id, &[], &[]), "request.policy"),
        (change(&played.id, &["a.example"; 65], &[]), "request.size"),
        (change(&played.id, &["192.0.2.1"], &[]), "network.host"),
        (change(&played.id, &["x.example"], &[]), "network.deny"),
        (change(&played.id, &["local:5432"], &[]), "network.live"),
        (change(&closed.id, &["a.example"], &[]), "network.none"),
        (change(&closed.id, &[], &["a.example"]), "network.none"),
        (change("0fedcba98765", &["a.example"], &[]), "session.unknown"),
    ] {
        assert_eq!(refused(&client, request).await, rule);
    }
    assert_eq!(refused(&bob, change(&played.id, &["b.example"], &[])).await, "session.unknown");
    let root = stage.connect(ROOT).await;
    assert_eq!(refused(&root, change(&played.id, &["b.example"], &[])).await, "caller.root");
    assert_eq!(network(&client, &played.id).await.unwrap().allow, ["a.example:443"]);
    let nobody = RunSpec { allow: vec!["192.0.2.1".into()], ..spec() };
    let refusal = client.clone().create(request(nobody)).await.unwrap_err();
    assert_eq!(rule(&refusal), "network.host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_no_keeper_confirmed_is_told_again_by_the_next_service() {
    let mut stage = Stage::with("told", SITE);
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, reaching()).await;
    played.say(1, EventBody::Started).await;
    while played.acknowledged().await < 1 {}
    let mut asking = client.clone();
    let request = change(&played.id, &[], &["a.example"]);
    let asked = tokio::spawn(async move { asking.change_policy(request).await });
    told_policy(&played).await;
    // What is kept comes to the disk behind nothing else.
    while !std::fs::read_to_string(stage.root.join(format!("audit/{}.json", played.id)))
        .unwrap()
        .contains("deny a.example")
    {
        tokio::task::yield_now().await;
    }
    stage.restart();
    assert!(asked.await.unwrap().is_err());
    let client = stage.connect(ALICE).await;
    stage.live(&[&played]);
    played.greeted(1).await;
    let (rules, text) = told_policy(&played).await;
    assert_eq!((rules.last().map(String::as_str), text.as_str()), (Some("not a.example"), "deny a.example"));
    played.streams().await;
    played.say(2, EventBody::Policy { change: text }).await;
    while played.acknowledged().await < 2 {}
    assert_eq!(network(&client, &played.id).await.unwrap().deny, ["x.example", "a.example"]);
    let record = stage.host.registry.find(&played.id, &ALICE, crate::registry::Wish::Look).unwrap().record();
    assert_eq!(record.change, None);
}
