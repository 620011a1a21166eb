use proptest::prelude::*;

use super::*;
use crate::git::Part;
use crate::library::Library;
use crate::limits::Asked;
use crate::names::{ProfileName, RelPath, SessionId, UserName};
use crate::network::Change;
use crate::plan::WindowSize;
use crate::profile::filesystem;
use crate::publish::Publish;
use crate::quantity::Size;
use crate::resolver::Resolver;

fn path(text: &str) -> AbsPath {
    AbsPath::parse(text).unwrap()
}

fn request() -> Request {
    Request {
        session: SessionId::parse("0123456789ab").unwrap(),
        command: vec![b"true".to_vec()],
        env: vec![],
        caller_env: vec![],
        cwd: path("/home/alice/p"),
        workspace: vec![],
        write: vec![],
        read: vec![],
        git: vec![],
        mask: vec![],
        profile_files: vec![],
        network: Change::default(),
        publish: vec![],
        limits: Asked::default(),
        terminal: None,
        remove: false,
        umask: 0o022,
        offered: None,
    }
}

fn alice() -> CallerFacts {
    CallerFacts {
        uid: 1000,
        user: UserName::parse("alice").unwrap(),
        home: path("/home/alice"),
        shell: path("/bin/bash"),
        allow_root: false,
    }
}

fn upstream() -> Upstream {
    Upstream {
        resolvers: vec![Resolver::parse("192.0.2.53").unwrap()],
        search: vec![],
        allow_private_ranges: vec![],
        proxy: None,
    }
}

fn default() -> Profile {
    let library = Library { files: &[], site: &|_| Ok(None), bounds: &Bounds::default() };
    library.resolve(&ProfileName::parse("default").unwrap()).unwrap()
}

fn toml(text: &str) -> Profile {
    Profile::parse("test", &format!("schema = 1\n{text}")).unwrap()
}

fn plan(request: &Request, profile: &Profile) -> Result<Plan, Refusal> {
    decide(request, profile, &Bounds::default(), &upstream(), &alice())
        .map(|permit| permit.into_plan().into())
}

fn rule(request: &Request, profile: &Profile) -> &'static str {
    plan(request, profile).unwrap_err().rule.name()
}

fn text(names: &[RelPath]) -> Vec<&str> {
    names.iter().map(RelPath::as_str).collect()
}

#[test]
fn the_default_profile_gives_the_current_directory_as_an_overlay() {
    let permit = decide(&request(), &default(), &Bounds::default(), &upstream(), &alice()).unwrap();
    let wanted = Wanted { role: Role::Workspace, mode: Mode::Overlay, path: path("/home/alice/p") };
    assert_eq!(permit.wanted(), [wanted]);
    let plan = permit.into_plan();
    assert_eq!(text(&plan.workspaces[0].mask), [".env"]);
    assert_eq!(text(&plan.workspaces[0].protect), [".git/config", ".git/hooks"]);
    assert_eq!(plan.scratch, [Scratch { path: path("/tmp"), size: 512 << 20, exec: true }]);
    assert_eq!((&plan.cwd, plan.limits.memory), (&path("/home/alice/p"), 4 << 30));
}

#[test]
fn nobody_gets_a_home_or_the_root() {
    for cwd in ["/", "/home", "/home/alice"] {
        assert_eq!(rule(&Request { cwd: path(cwd), ..request() }, &default()), "workspace.home");
    }
    assert_eq!(rule(&Request { cwd: path("/etc/x"), ..request() }, &default()), "plan.reserved");
    // A symbolic link changes nothing: what counts is what was opened.
    let offered = vec![Wanted { role: Role::Workspace, mode: Mode::Overlay, path: path("/home/alice") }];
    assert_eq!(rule(&Request { offered: Some(offered), ..request() }, &default()), "workspace.home");
}

#[test]
fn what_was_opened_takes_the_place_of_what_was_asked_for() {
    let offered = vec![Wanted { role: Role::Workspace, mode: Mode::Overlay, path: path("/data/p") }];
    let cwd = path("/home/alice/p/src");
    let workspace = vec![(path("/home/alice/p"), None)];
    let asked = Request { offered: Some(offered.clone()), cwd, workspace, ..request() };
    let plan = plan(&asked, &default()).unwrap();
    assert_eq!((plan.workspaces[0].path.as_str(), plan.cwd.as_str()), ("/data/p", "/data/p/src"));
    for bad in [
        vec![],
        [offered.clone(), offered.clone()].concat(),
        vec![Wanted { mode: Mode::Direct, ..offered[0].clone() }],
    ] {
        assert_eq!(rule(&Request { offered: Some(bad), ..request() }, &default()), "request.paths");
    }
}

#[test]
fn what_a_repository_needs_comes_besides() {
    let place = |text: &str, used| Place { path: path(text), used };
    let work = |part, mode| Use::Work(part, mode);
    let git = [
        place("/home/alice/p", Use::Guard),
        place("/home/alice/p/hk", Use::Guard),
        place("/o/objects", Use::Read),
        place("/r", Use::Top),
        place("/r/.git", work(Part::Repository, Mode::Overlay)),
        place("/s/.git/objects", work(Part::Data, Mode::Direct)),
    ];
    let mask = vec!["key".into()];
    let made = plan(&Request { git: git[2..].to_vec(), mask, ..request() }, &default()).unwrap();
    let [own, repository, data] = made.workspaces.as_slice() else { panic!("{:?}", made.workspaces) };
    assert_eq!((own.git, repository.git, data.git), (None, Some(Part::Repository), Some(Part::Data)));
    assert_eq!((repository.descriptor, data.descriptor, made.inputs[0].descriptor), (1, 2, 3));
    // Masks are of names in working trees.
    assert!(repository.mask.is_empty() && repository.mask_anywhere.is_empty() && data.mask.is_empty());
    assert_eq!(made.inputs[0].path.as_str(), "/o/objects");
    assert!(made.scratch.iter().any(|scratch| scratch.path.as_str() == "/r"));
    let crosses = |plan: &Plan| plan.env.iter().any(|(name, _)| name == b"GIT_DISCOVERY_ACROSS_FILESYSTEM");
    assert!(crosses(&made));
    // Who may read the top sees it, and not an empty directory.
    let asked = Request { git: git[2..].to_vec(), read: vec![path("/r")], ..request() };
    let made = plan(&asked, &default()).unwrap();
    assert!(crosses(&made) && made.scratch.iter().all(|scratch| scratch.path.as_str() != "/r"));
    // What the configuration names is held in mode direct.
    let direct = |git: &[Place]| {
        let workspace = vec![(path("/home/alice/p"), Some(Mode::Direct))];
        Request { workspace, git: git.to_vec(), ..request() }
    };
    let made = plan(&direct(&git[1..2]), &default()).unwrap();
    assert!(text(&made.workspaces[0].protect).contains(&"hk") && !crosses(&made));
    assert_eq!(rule(&direct(&git[..1]), &default()), "workspace.hooks");
    let none = Request { git: git[..1].to_vec(), ..request() };
    assert!(plan(&none, &default()).unwrap().workspaces[0].protect.iter().all(|name| name.as_str() != "hk"));
    for (part, mode) in [(Part::Common, Mode::Direct), (Part::Data, Mode::Overlay)] {
        let git = vec![place("/s", work(part, mode))];
        assert_eq!(rule(&Request { git, ..request() }, &default()), "plan.git");
    }
}

#[test]
fn flags_replace_the_workspace_and_keep_its_masks() {
    let flagged =
        |mode| Request { workspace: vec![(path("/srv/x"), mode)], mask: vec!["key".into()], ..request() };
    let first = |request: &Request| plan(request, &default()).unwrap();
    let made = first(&flagged(Some(Mode::Direct)));
    assert_eq!((made.workspaces[0].path.as_str(), made.workspaces[0].mode), ("/srv/x", Mode::Direct));
    assert_eq!(text(&made.workspaces[0].mask), [".env", "key"]);
    assert_eq!(made.cwd, path("/srv/x"));
    assert_eq!(first(&flagged(None)).workspaces[0].mode, Mode::Overlay);
}

#[test]
fn what_cannot_be_enforced_is_refused_by_name() {
    for (text, key) in [
        ("[filesystem]\nhome = 'kept'", "kept"),
        ("[[filesystem.workspace]]\npath = '.'\nmode = 'worktree'", "worktree"),
        ("[network]\ndefault = 'ask'", "network.default"),
        ("[[http]]\nhost = 'a.example'", "http"),
        ("[process]\nexec = ['/usr/**']", "process.exec"),
        ("[terminal]\nfilter = false", "terminal.filter"),
    ] {
        let refusal = plan(&request(), &toml(text)).unwrap_err();
        assert_eq!(refusal.rule.name(), "profile.unenforced");
        assert!(refusal.what.contains(key), "{refusal}");
    }
    assert!(plan(&request(), &toml("[network]\ndefault = 'deny'\ndeny = ['x.example']")).is_ok());
    for glob in ["**/a/*/b", "**/*", "*.pem", "a?", "[ab]"] {
        assert_eq!(rule(&Request { mask: vec![glob.into()], ..request() }, &default()), "mask.glob");
    }
    let anywhere = plan(&Request { mask: vec!["**/.env.*".into()], ..request() }, &toml("")).unwrap_err();
    assert_eq!(anywhere.rule.name(), "mask.workspace");
    let anywhere = plan(&Request { mask: vec!["**/*.pem".into()], ..request() }, &default()).unwrap();
    assert!(anywhere.workspaces[0].mask_anywhere.iter().any(|pattern| pattern.to_string() == "**/*.pem"));
    let protect = toml("[[filesystem.workspace]]\npath = '.'\nprotect = ['*.toml']");
    assert_eq!(rule(&request(), &protect), "protect.glob");
    assert_eq!(rule(&Request { mask: vec!["../x".into()], ..request() }, &default()), "mask.name");
}

#[test]
fn the_environment_is_what_was_named() {
    let pair = |k: &str, v: &str| (k.as_bytes().to_vec(), v.as_bytes().to_vec());
    let profile = toml("[environment]\nallow = ['LC_*', 'EDITOR', 'LD_*']\nset = { EDITOR = 'vi' }");
    let caller_env =
        ["LC_ALL=C", "AWS_SECRET_ACCESS_KEY=x", "EDITOR=ed", "LD_PRELOAD=/x", "PATH=/evil", "TERM=foot"]
            .map(|t| t.split_once('=').unwrap())
            .map(|(k, v)| pair(k, v))
            .to_vec();
    let env = vec![pair("LD_LIBRARY_PATH", "/y")];
    let terminal = Some(WindowSize { rows: 24, cols: 80 });
    let asked = Request { caller_env, env, terminal, ..request() };
    let profile = profile.overlaid(toml("[network]\nproxy_env = false"));
    let got: Vec<String> = plan(&asked, &profile)
        .unwrap()
        .env
        .iter()
        .map(|(k, v)| format!("{}={}", String::from_utf8_lossy(k), String::from_utf8_lossy(v)))
        .collect();
    let wanted = [
        "EDITOR=vi",
        "HOME=/home/alice",
        "LC_ALL=C",
        "LD_LIBRARY_PATH=/y",
        "LOGNAME=alice",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/home/alice",
        "SHELL=/bin/bash",
        "TERM=foot",
        "USER=alice",
        "XDG_RUNTIME_DIR=/run/user/1000",
    ];
    assert_eq!(got, wanted);
    for bad in ["allow = ['LD_PRELOAD']", "set = { BASH_ENV = 'x' }"] {
        assert_eq!(rule(&request(), &toml(&format!("[environment]\n{bad}"))), "environment.dangerous");
    }
    assert_eq!(rule(&request(), &toml("[environment]\nallow = ['*_KEY']")), "environment.pattern");
}

#[test]
fn a_way_out_is_there_if_something_may_pass() {
    let flags = |allow: &[&str], deny: &[&str]| {
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        Request { network: Change::parse(&texts(allow), &texts(deny)).unwrap(), ..request() }
    };
    let denying = toml("[network]\ndeny = ['*.ads.example']\nproxy_env = true");
    for closed in [request(), flags(&[], &["b.example"])] {
        let plan = plan(&closed, &denying).unwrap();
        let egress = plan.egress.unwrap();
        assert!(egress.is_closed() && egress.announce_proxy && egress.resolvers == upstream().resolvers);
        assert!(plan.env.iter().any(|(name, _)| name == b"http_proxy"));
    }
    let silent = denying.clone().overlaid(toml("[network]\nproxy_env = false"));
    assert!(!plan(&request(), &silent).unwrap().env.iter().any(|(name, _)| name == b"http_proxy"));
    let plan = plan(&flags(&["a.example", "local:5432"], &["b.example"]), &denying).unwrap();
    let egress = plan.egress.unwrap();
    let rules: Vec<String> = egress.rules().map(|rule| rule.to_string()).collect();
    assert_eq!(rules, ["a.example:80,443", "local:5432"]);
    let deny: Vec<String> = egress.hosts.deny.iter().map(ToString::to_string).collect();
    assert_eq!(deny, ["*.ads.example", "b.example"]);
    assert_eq!(egress.resolvers, upstream().resolvers);
    let env = |name: &str| plan.env.iter().find(|(n, _)| n == name.as_bytes()).map(|(_, value)| &value[..]);
    assert_eq!(env("HTTPS_PROXY"), Some(&b"http://localhost:3128"[..]));
    assert_eq!(env("no_proxy"), Some(&b"localhost,.localhost,127.0.0.1,::1"[..]));
    assert_eq!(rule(&flags(&["x.ads.example"], &[]), &denying), "network.deny");
    let nobody =
        |request: &Request| decide(request, &denying, &Bounds::default(), &Upstream::default(), &alice());
    assert_eq!(nobody(&flags(&["a.example"], &[])).unwrap_err().rule.name(), "egress.resolver");
    assert!(nobody(&flags(&["192.0.2.0/24"], &[])).is_ok());
}

#[test]
fn a_network_that_is_none_is_none_for_good() {
    let none = toml("[network]\ndefault = 'none'");
    let sealed = plan(&request(), &none).unwrap();
    assert!(sealed.egress.unwrap().sealed && !sealed.env.iter().any(|(name, _)| name == b"http_proxy"));
    let allow = Request { network: Change::parse(&["a.example".into()], &[]).unwrap(), ..request() };
    assert_eq!(rule(&allow, &none), "network.none");
    assert_eq!(
        rule(&request(), &toml("[network]\ndefault = 'none'\n[[network.allow]]\nhost = 'a.example'")),
        "network.none"
    );
    let child = none.overlaid(toml("[network]\ndefault = 'deny'"));
    assert!(plan(&request(), &child).unwrap().egress.unwrap().sealed);
}

#[test]
fn what_is_published_is_no_way_out() {
    let publish = |text: &str| Publish::parse(text).unwrap();
    let profile = toml("[[network.publish]]\nport = 3000\nhost_port = 8080");
    let asked = |texts: &[&str]| Request { publish: texts.iter().map(|t| publish(t)).collect(), ..request() };
    let plan = plan(&asked(&["3000", "8080:3000"]), &profile).unwrap();
    let egress = plan.egress.unwrap();
    assert_eq!(egress.publish, [publish("8080:3000"), publish("3000")]);
    assert!(egress.is_closed());
    assert_eq!(rule(&asked(&["8080:80"]), &profile), "network.publish");
    let looped = Request { network: Change::parse(&["local:3000".into()], &[]).unwrap(), ..request() };
    assert_eq!(rule(&looped, &profile), "network.publish");
    let bounds = Bounds { publish: false, ..Bounds::default() };
    let forbidden = |profile: &Profile| decide(&asked(&[]), profile, &bounds, &upstream(), &alice());
    assert_eq!(forbidden(&profile).unwrap_err().rule.name(), "bounds.publish");
    assert!(forbidden(&toml("")).is_ok());
}

#[test]
fn limits_that_were_written_down_are_refused_above_the_bound() {
    let bounds = Bounds { memory: Size(1 << 30), cpus: 1.0, ..Bounds::default() };
    let with =
        |request: &Request, profile: &Profile| decide(request, profile, &bounds, &upstream(), &alice());
    let plan = with(&request(), &toml("")).unwrap().into_plan();
    assert_eq!((plan.limits.memory, plan.limits.cpus), (1 << 30, 1.0));
    let flag = Request { limits: Asked { memory: Some(Size(2 << 30)), ..Asked::default() }, ..request() };
    assert_eq!(with(&flag, &toml("")).unwrap_err().rule.name(), "bounds.memory");
    assert_eq!(with(&request(), &toml("[limits]\nmemory = '2G'")).unwrap_err().rule.name(), "bounds.memory");
    assert_eq!(
        with(&Request { limits: Asked { cpus: Some(f64::NAN), ..Asked::default() }, ..request() }, &toml(""))
            .unwrap_err()
            .rule
            .name(),
        "bounds.cpus"
    );
}

#[test]
fn root_needs_the_sites_word() {
    let root = CallerFacts { uid: 0, ..alice() };
    assert_eq!(
        decide(&request(), &default(), &Bounds::default(), &upstream(), &root).unwrap_err().rule.name(),
        "caller.root"
    );
    let root = CallerFacts { allow_root: true, ..root };
    assert!(decide(&request(), &default(), &Bounds::default(), &upstream(), &root).is_ok());
}

#[test]
fn mounts_that_meet_are_refused() {
    let read = |p: &str| Request { read: vec![path(p)], ..request() };
    assert_eq!(rule(&read("/home/alice"), &default()), "mount.duplicate");
    assert_eq!(rule(&read("/home/alice/p"), &default()), "mount.duplicate");
    assert_eq!(rule(&Request { cwd: path("/tmp"), ..request() }, &default()), "mount.duplicate");
    assert_eq!(rule(&read("/home/alice/p/.env"), &default()), "mask.uncovered");
    assert!(plan(&read("/home/alice/p/lib"), &default()).is_ok());
    assert!(plan(&Request { cwd: path("/tmp/x"), ..request() }, &default()).is_ok());
}

#[test]
fn an_inner_workspace_uncovers_nothing() {
    let nested = |inner: &str, mode: &str| {
        toml(&format!(
            "[[filesystem.workspace]]\npath = '.'\nmask = ['a/key', 'b']\nprotect = ['a/hooks', 'c']\n\
             [[filesystem.workspace]]\npath = './{inner}'\nmode = '{mode}'"
        ))
    };
    let inner = plan(&request(), &nested("a", "direct")).unwrap().workspaces[1].clone();
    assert_eq!((text(&inner.mask), text(&inner.protect)), (vec!["key"], vec!["hooks"]));
    assert_eq!(rule(&request(), &nested("b", "ro")), "mask.uncovered");
    assert_eq!(rule(&request(), &nested("b/x", "ro")), "mask.uncovered");
    assert_eq!(rule(&request(), &nested("c/x", "direct")), "mask.uncovered");
    assert!(plan(&request(), &nested("c/x", "ro")).is_ok());
}

#[test]
fn the_profiles_of_a_session_are_read_only_in_it() {
    let files = vec![path("/home/alice/p/agent.toml"), path("/etc/x.toml")];
    let with = |mode| Request {
        workspace: vec![(path("/home/alice/p"), Some(mode))],
        profile_files: files.clone(),
        ..request()
    };
    for (mode, protected) in [(Mode::Direct, true), (Mode::Overlay, true), (Mode::Ro, false)] {
        let made = plan(&with(mode), &default()).unwrap();
        assert_eq!(text(&made.workspaces[0].protect).contains(&"agent.toml"), protected);
    }
    let whole = Request { profile_files: vec![path("/home/alice/p")], ..with(Mode::Direct) };
    assert_eq!(rule(&whole, &default()), "workspace.profiles");
}

#[test]
fn names_under_a_mask_are_left_out() {
    let profile = toml(
        "[[filesystem.workspace]]\npath = '.'\nmask = ['a', './a/b/', 'ab']\nprotect = ['a/x', 'z', 'z/y']",
    );
    let made = plan(&request(), &profile).unwrap();
    assert_eq!(text(&made.workspaces[0].mask), ["a", "ab"]);
    assert_eq!(text(&made.workspaces[0].protect), ["z"]);
}

#[test]
fn the_command_starts_where_the_session_has_something() {
    let nothing = toml("");
    assert_eq!(plan(&request(), &nothing).unwrap().cwd, path("/home/alice"));
    let inside = toml("[filesystem]\nread = ['~/notes']");
    let request = Request { cwd: path("/home/alice/notes/a"), ..request() };
    assert_eq!(plan(&request, &inside).unwrap().cwd, path("/home/alice/notes/a"));
}

proptest! {
    #[test]
    fn hostile_requests_never_panic_and_plans_hold_their_bounds(
        cwd in "(/[a-c.~ü]{1,6}){1,4}",
        paths in proptest::collection::vec("[~./]{0,2}(/?[a-c*.]{1,4}){0,3}/?", 0..5),
        masks in proptest::collection::vec("[a-c*./]{0,6}", 0..5),
        memory in any::<Option<u64>>(),
        cpus in any::<Option<f64>>(),
        word in any::<Vec<u8>>(),
    ) {
        let mut profile = default();
        profile.filesystem.read = paths.clone();
        profile.filesystem.workspace.extend(paths.iter().map(|p| filesystem::Workspace {
            path: p.clone(), mode: None, mask: masks.clone(), protect: masks.clone(), sockets: masks.clone(),
        }));
        profile.environment.allow = masks.clone();
        let Ok(cwd) = AbsPath::parse(&cwd) else { return Ok(()) };
        let env = vec![(word.clone(), word.clone())];
        let asked = Request {
            cwd, limits: Asked { memory: memory.map(Size), cpus, ..Asked::default() }, mask: masks, command: vec![word], env: env.clone(), caller_env: env, ..request()
        };
        if let Ok(permit) = decide(&asked, &profile, &Bounds::default(), &upstream(), &alice()) {
            prop_assert!(permit.plan().check(&Bounds::default()).is_ok());
            let wanted = permit.wanted().to_vec();
            let again = Request { offered: Some(wanted), ..asked };
            let second = decide(&again, &profile, &Bounds::default(), &upstream(), &alice()).unwrap();
            prop_assert_eq!(second.plan(), permit.plan());
        }
    }
}

#[test]
fn several_workspaces_and_what_is_written_to_besides() {
    let several = Request {
        workspace: vec![(path("/srv/x"), None), (path("/srv/y"), Some(Mode::Ro))],
        write: vec![path("/srv/z"), path("/srv/z")],
        ..request()
    };
    let profile = default().overlaid(toml("[filesystem]\nwrite = ['~/out']"));
    let made = plan(&several, &profile).unwrap();
    let places: Vec<_> = made.workspaces.iter().map(|w| (w.path.as_str(), w.mode, w.descriptor)).collect();
    assert_eq!(
        places,
        [
            ("/srv/x", Mode::Overlay, 0),
            ("/srv/y", Mode::Ro, 1),
            ("/home/alice/out", Mode::Direct, 2),
            ("/srv/z", Mode::Direct, 3),
        ]
    );
    for workspace in &made.workspaces {
        assert_eq!(text(&workspace.mask), [".env"], "{}", workspace.path);
        assert!(text(&workspace.protect).contains(&".git/hooks"), "{}", workspace.path);
    }
    assert_eq!(made.cwd, path("/srv/x"));
}

#[test]
fn what_runs_by_itself_is_not_written_to() {
    let write = |text: &str| Request { write: vec![path(text)], ..request() };
    for place in [
        "/home/alice/.ssh",
        "/home/alice/.ssh/keys",
        "/home/alice/.config",
        "/home/alice/.config/systemd/user",
        "/home/alice/.config/agentd",
        "/home/alice/.local",
    ] {
        assert_eq!(rule(&write(place), &default()), "workspace.startup", "{place}");
    }
    assert_eq!(rule(&write("/home/alice"), &default()), "workspace.home");
    assert_eq!(rule(&write("/home"), &default()), "workspace.home");
    assert!(plan(&write("/home/alice/.config/app"), &default()).is_ok());
    // A copy can be changed.
    let overlay = Request { workspace: vec![(path("/home/alice/.config"), None)], ..request() };
    assert!(plan(&overlay, &default()).is_ok());
}
