//! Programs as people have them, none of which knows of agentd: on the test's own host, and in a session that may.
//! What the host does not have is not tried, and said.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use agentd_tests::harness::{World, complete, not_tried, text_at};
use serde_json::Value;

use crate::internet;

/// One of them, and what it does.
pub struct Program {
    /// Its name in the test's output.
    pub name: &'static str,
    /// What has to be in /usr/bin.
    pub needs: &'static [&'static str],
    /// What it has to be let, as `--allow` says it.
    pub allow: &'static [&'static str],
    /// In bash, with `ca.pem`, `id_ssh`, `client.py` and `Fetch.java` in the working directory.
    pub script: &'static str,
    /// What it writes.
    pub says: &'static str,
    /// Connections that are seen: the name and the port.
    pub connects: &'static [(&'static str, u16)],
}

macro_rules! program {
    ($name:literal, $needs:expr, $allow:expr, $script:expr, $says:expr, $connects:expr) => {
        Program {
            name: $name,
            needs: &$needs,
            allow: &$allow,
            script: $script,
            says: $says,
            connects: &$connects,
        }
    };
}

const GOOD: &str = "this is good.test\n";

/// All of them.
pub const PROGRAMS: &[Program] = &[
    program!("curl_http", ["curl"], ["good.test"], "curl -sS http://good.test/", GOOD, [("good.test", 80)]),
    program!("curl_https", ["curl"], ["good.test"], "curl -sS --http1.1 https://good.test/", GOOD, [("good.test", 443)]),
    program!("curl_http2", ["curl"], ["good.test"], "curl -sS --http2 -w '%{http_version}\\n' https://good.test/",
        "this is good.test\n2\n", [("good.test", 443)]),
    program!("curl_ipv6", ["curl"], ["good.test"], "curl -6 -sS https://good.test/", GOOD, [("good.test", 443)]),
    program!("curl_of_a_name_with_ipv6_alone", ["curl"], ["six.test:443"], "curl -sS https://six.test/",
        "this is six.test\n", [("six.test", 443)]),
    program!("curl_through_an_alias", ["curl"], ["www.good.test", "good.test"], "curl -sS https://www.good.test/",
        "this is www.good.test\n", [("www.good.test", 443)]),
    program!("curl_by_a_kept_connection", ["curl"], ["good.test"],
        "curl -sS -w '%{num_connects}\\n' http://good.test/ http://good.test/", "this is good.test\n1\nthis is good.test\n0\n",
        [("good.test", 80)]),
    program!("curl_download", ["curl"], ["good.test"],
        "test \"$(curl -sS https://good.test/bulk | wc -c)\" = 16777216 && curl -sS http://good.test/bulk | cmp - <(curl -sS https://good.test/bulk) && echo same",
        "same\n", [("good.test", 443), ("good.test", 80)]),
    program!("curl_that_waits_for_the_server", ["curl"], ["stream.test"],
        "head -c 3000000 /dev/urandom > up; test \"$(curl -sS --http1.1 -H 'Expect: 100-continue' --data-binary @up http://stream.test/app/upload)\" = \"$(sha256sum < up | cut -d ' ' -f 1)\" && echo same",
        "same\n", [("stream.test", 80)]),
    program!("curl_upload", ["curl"], ["stream.test"],
        "head -c 8000000 /dev/urandom > up; test \"$(curl -sS --data-binary @up https://stream.test/app/upload)\" = \"$(sha256sum < up | cut -d ' ' -f 1)\" && echo same",
        "same\n", [("stream.test", 443)]),
    program!("wget", ["wget"], ["good.test"], "wget -qO- --ca-certificate=ca.pem https://good.test/", GOOD, [("good.test", 443)]),
    program!("git_https", ["git"], ["git.test"],
        "git clone -q https://git.test/repo.git repo && cat repo/README", "a cloned line\n", [("git.test", 443)]),
    program!("git_ssh", ["git", "ssh"], ["git.test:22"],
        "export GIT_SSH_COMMAND='ssh -F none -i id_ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR'
        git clone -q ssh://agentd-test-b@git.test/{repository} copy && cat copy/README",
        "a cloned line\n", [("git.test", 22)]),
    program!("pip", ["python3", "pip3"], ["pypi.test"],
        "python3 -m pip -q --isolated --disable-pip-version-check --no-cache-dir --cert ca.pem install --target got --index-url https://pypi.test/simple thing &&
        python3 -c 'import sys; sys.path.insert(0, \"got\"); import thing; print(thing.said)'",
        "from the index\n", [("pypi.test", 443)]),
    program!("npm", ["node", "npm"], ["npm.test"],
        "export HOME=$PWD npm_config_cache=$PWD/cache npm_config_update_notifier=false
        npm install --silent --no-audit --no-fund --prefix got --registry https://npm.test/ thing >/dev/null && node -p 'require(\"./got/node_modules/thing\")'",
        "from the registry\n", [("npm.test", 443)]),
    program!("node_fetch", ["node"], ["good.test"],
        "node -e 'fetch(\"https://good.test/\").then(r => r.text()).then(t => process.stdout.write(t))'", GOOD, [("good.test", 443)]),
    program!("python_urllib", ["python3"], ["good.test"],
        "python3 -c 'import urllib.request as u; print(u.urlopen(\"https://good.test/\").read().decode(), end=\"\")'",
        GOOD, [("good.test", 443)]),
    program!("java_http_client", ["java"], ["good.test"], "java Fetch.java http://good.test/", GOOD, [("good.test", 80)]),
    program!("go_with_its_own_resolver", ["certinfo"], ["good.test"],
        "GODEBUG=netdns=2 certinfo good.test:443 2>resolver | grep -o 'CN=good.test' | head -n 1; grep -o \"using Go's DNS resolver\" resolver",
        "CN=good.test\nusing Go's DNS resolver\n", [("good.test", 443)]),
    program!("websocket", ["python3"], ["stream.test"], "python3 client.py websocket stream.test 60 {pause}", "60 echoes\n",
        [("stream.test", 443)]),
    program!("server_sent_events", ["curl"], ["stream.test"],
        "curl -sSN https://stream.test/app/events/600/5 | grep -c '^data:'", "600\n", [("stream.test", 443)]),
    program!("plain_tcp_where_the_server_speaks_first", ["python3"], ["echo.test:7"],
        "python3 client.py first echo.test 7", "hello\n", [("echo.test", 7)]),
    program!("plain_tcp_half_closed", ["python3"], ["echo.test:7"],
        "python3 client.py half echo.test 7 3000000", "3000000 back after our end\n", [("echo.test", 7)]),
    program!("plain_tcp_ipv6", ["python3"], ["echo.test:7"], "python3 client.py first6 echo.test 7", "hello\n", [("echo.test", 7)]),
    program!("dns_over_tcp", ["python3"], ["good.test"], "python3 client.py lookup good.test", "192.0.2.80\n", []),
    program!("getaddrinfo", ["python3"], ["good.test"],
        "getent ahosts good.test | awk '{print $1}' | sort -u", "192.0.2.80\n2001:db8::80\n", []),
];

/// Puts what the scripts use into a new directory of user a's.
fn place(world: &World) -> PathBuf {
    let dir = world.workspace(world.a());
    let copy = |from: &Path, name: &str| {
        world.a().write(dir.join(name), std::fs::read(from).expect("a file of the internet"));
    };
    copy(&internet().authority(), "ca.pem");
    copy(&internet().ssh_key(), "id_ssh");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(dir.join("id_ssh"), private).expect("root's to say");
    world.a().write(dir.join("client.py"), include_str!("client.py"));
    world.a().write(dir.join("Fetch.java"), include_str!("Fetch.java"));
    dir
}

/// The whole script. Where it can be seen to hold on, it takes a minute.
fn script(program: &Program, patient: bool) -> String {
    let own = program.script.replace("{repository}", &internet().repository());
    let own = own.replace("{pause}", if patient { "1" } else { "0" });
    format!(
        "export PATH=/usr/bin:/bin CURL_CA_BUNDLE=$PWD/ca.pem SSL_CERT_FILE=$PWD/ca.pem GIT_SSL_CAINFO=$PWD/ca.pem \
         NODE_EXTRA_CA_CERTS=$PWD/ca.pem\n{own}"
    )
}

/// Ends a test whose program this host does not have.
fn try_only_if_there(program: &Program) {
    let missing: Vec<_> = program.needs.iter().filter(|p| !Path::new("/usr/bin").join(p).exists()).collect();
    if !missing.is_empty() {
        not_tried(&format!("this host has no {missing:?} in /usr/bin"));
    }
}

/// With nothing in between: what does not work here proves nothing in a session.
pub fn outside(world: &World, program: &Program) {
    try_only_if_there(program);
    let dir = place(world);
    let mut command = internet().command(world.a(), "/bin/bash");
    command.args(["-c", &script(program, false)]).current_dir(&dir);
    let output = complete(&mut command, vec![], program.name.into()).expect_code(0);
    assert_eq!(output.text(), program.says, "{}", output.stderr);
}

/// In a session whose programs have the proxy in their environment, as they are unless a profile says otherwise: the
/// same comes of it. What asks for two files over one connection gets one for each.
pub fn proxied(world: &World, program: &Program) {
    try_only_if_there(program);
    let allow = program.allow.iter().flat_map(|rule| ["--allow", rule]);
    let output = world.session_in(place(world)).options(allow).bash(&script(program, true)).expect_code(0);
    let says = match program.name {
        "curl_by_a_kept_connection" => program.says.replace("\n0\n", "\n1\n"),
        _ => program.says.to_owned(),
    };
    assert_eq!(output.text(), says, "{}", output.stderr);
}

/// In a session that may do just this: the same comes of it, and each question, connection and end is seen.
pub fn inside(world: &World, program: &Program) {
    try_only_if_there(program);
    let allow = program.allow.iter().flat_map(|rule| ["--allow", rule]);
    let session = world.session_in(place(world)).past_the_proxy().options(allow);
    let output = session.bash(&script(program, true)).expect_code(0);
    assert_eq!(output.text(), program.says, "{}", output.stderr);
    let events = world.all_events(world.a(), &output.name);
    let of = |kind: &'static str| events.iter().filter(move |event| event["kind"] == kind);
    for (name, port) in program.connects {
        let named =
            |event: &&Value, pointer| text_at(event, pointer) == *name && event["decision"] == "allow";
        assert!(
            of("dns.query").any(|event| named(&event, "/dns/name")),
            "no question for {name}: {events:#?}"
        );
        let there = |event: &&Value| text_at(event, "/net/name") == *name && event["net"]["port"] == *port;
        let connected = of("net.connect").filter(there).any(|event| event["decision"] == "allow");
        assert!(connected, "no connection to {name}:{port}: {events:#?}");
        let closed = of("net.closed").filter(there).any(|event| event["net"]["received"].as_u64() > Some(0));
        assert!(closed, "no end of one to {name}:{port}: {events:#?}");
    }
    let denied = of("net.denied").chain(of("http.request")).count();
    assert_eq!(denied, 0, "something was denied: {events:#?}");
}
