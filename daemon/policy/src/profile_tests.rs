use super::*;

/// The example of the documentation, every key of the format in it.
pub(crate) const WHOLE: &str = r#"
    schema = 1
    name = "example"
    extends = ["base"]
    [filesystem]
    home = "scratch"
    read = ["~/notes"]
    [[filesystem.workspace]]
    path = "."
    mode = "overlay"
    mask = ["**/.env", "**/*.pem"]
    protect = [".git/hooks", ".git/config"]
    sockets = ["run/app.sock"]
    [[filesystem.scratch]]
    path = "/tmp"
    size = "512M"
    exec = false
    [network]
    default = "deny"
    deny = ["*.ads.example"]
    dns_types = ["TXT"]
    proxy_env = false
    [[network.allow]]
    cidr = "192.0.2.0/24"
    [[network.allow]]
    local = 5432
    [[network.allow]]
    host = "api.example.org"
    ports = [443]
    protocol = "tcp"
    max_connections = 16
    max_sent = "64M"
    [[network.publish]]
    port = 3000
    host_port = 8080
    [[http]]
    host = "api.example.org"
    methods = ["GET", "POST"]
    paths = ["/v1/**"]
    [[credential]]
    host = "api.example.org"
    secret = "example"
    inject = { header = "authorization", value = "Bearer {secret}" }
    placeholder_env = "EXAMPLE_API_KEY"
    [environment]
    allow = ["LANG", "LC_*", "TERM"]
    set = { EDITOR = "true" }
    [process]
    exec = ["/usr/**", "/opt/toolchain/**"]
    [terminal]
    filter = true
    [require]
    landlock_abi = 2
    [limits]
    memory = "4G"
    cpus = 2.0
    pids = 512
    disk = "10G"
    timeout = "8h"
    idle = "30m"
    [approval]
    timeout = "60s"
"#;

#[test]
fn the_whole_format_parses_and_comes_back() {
    let profile = Profile::parse("x", WHOLE).unwrap();
    let text = profile.to_toml().unwrap();
    assert_eq!(Profile::parse("x", &text).unwrap(), profile);
    assert!(text.contains("memory = \"4G\"") && text.contains("timeout = \"8h\""), "{text}");
    let keys = ["http", "credential", "process.exec", "terminal.filter"];
    assert_eq!(profile.unenforced(), keys);
}

#[test]
fn the_manual_page_has_every_key() {
    const PAGE: &str = include_str!("../../../systemd/man/agentd-profile.5");
    fn check(value: &toml::Value) {
        match value {
            toml::Value::Table(table) => table.iter().for_each(|(key, value)| {
                let word =
                    |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == key);
                assert!(PAGE.lines().any(word), "no {key}");
                // What is below it is the caller's.
                if key != "set" && key != "inject" {
                    check(value);
                }
            }),
            toml::Value::Array(all) => all.iter().for_each(check),
            _ => {}
        }
    }
    check(&toml::from_str(WHOLE).unwrap());
}

#[test]
fn what_is_not_of_the_format_is_an_error_with_its_line() {
    let refusal = Profile::parse("x", "schema = 1\n[filesystem]\nreed = []").unwrap_err();
    assert_eq!(refusal.rule.name(), "profile.form");
    assert!(refusal.what.contains("line 3") && refusal.what.contains("reed"), "{refusal}");
    for bad in
        ["", "schema = 2", "schema = '1'", "schema = 1\nname = '../x'", "schema = 1\n[limits]\npids = -1"]
    {
        assert_eq!(Profile::parse("x", bad).unwrap_err().rule.name(), "profile.form", "{bad}");
    }
}

#[test]
fn sizes_are_bounded() {
    let long = format!("schema = 1 # {}", "x".repeat(MAX_BYTES));
    assert_eq!(Profile::parse("x", &long).unwrap_err().rule.name(), "profile.size");
    let many = format!("schema = 1\n[filesystem]\nread = [{}]", "'a',".repeat(MAX_LIST + 1));
    assert_eq!(Profile::parse("x", &many).unwrap_err().rule.name(), "profile.size");
    let entry = format!("schema = 1\n[filesystem]\nread = ['{}']", "a".repeat(MAX_TEXT + 1));
    assert_eq!(Profile::parse("x", &entry).unwrap_err().rule.name(), "profile.size");
}
