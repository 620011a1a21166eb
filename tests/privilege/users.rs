//! A user who asks, through agentctl, for what is not that user's, or for too much. Each is refused on one line
//! that names what, the rule and the hint.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::Member;
use agentd_tests::harness::{RunOutput, Session, World, within};
use agentd_tests::tests;
use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags};

/// The tests of this file.
pub const TESTS: &[Member] = tests![
    what_another_user_closed_stays_closed,
    a_link_that_is_swapped_all_the_time_opens_nothing,
    dots_lead_nowhere,
    what_is_no_directory_is_no_workspace,
    system_directories_are_the_sessions_own,
    a_profile_of_100_megabytes_is_not_read,
    ten_thousand_mounts_are_refused,
    more_than_the_bounds_is_refused,
    a_refused_build_leaves_no_placeholder,
    a_foreign_session_is_not_there,
];

/// Fails unless agentctl refused under one of `rules`, in the contract's form.
#[track_caller]
fn refused(output: RunOutput, rules: &[&str]) {
    let output = output.expect_code(125);
    assert!(output.stdout.is_empty(), "{}", output.text());
    let line = output.stderr.trim_end_matches('\n');
    assert!(line.starts_with("agentctl: refused: ") && !line.contains('\n'), "{line}");
    let rule = rules.iter().find(|rule| line.contains(&format!(" ({rule}): ")));
    let rule = rule.unwrap_or_else(|| panic!("not under {rules:?}: {line}"));
    let (what, hint) = line.split_once(&format!(" ({rule}): ")).expect("found");
    assert!(what.len() > "agentctl: refused: ".len() && !hint.is_empty(), "{line}");
}

#[track_caller]
fn refused_with(world: &World, cwd: &Path, options: &[&str], rules: &[&str]) {
    refused(world.session_in(cwd).options(options).run(["true"]), rules);
}

/// Fails if a session of anybody still runs once all tests have ended.
pub fn nothing_runs(world: &'static World) {
    let running = || world.agentctl(world.admin(), ["ps", "--json"]).expect_code(0).text();
    let empty = within(Duration::from_secs(10), || match running() {
        text if text.is_empty() => Ok(()),
        text => Err(text),
    });
    assert_eq!(empty, Ok(()), "sessions are left");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own name")
}

fn what_another_user_closed_stays_closed(world: &'static World) {
    let own = world.workspace(world.a());
    let theirs = world.workspace(world.b());
    world.b().write(theirs.join("secret"), "b's\n");
    let secret = theirs.join("secret");
    for (link, to) in
        [("to-dir", theirs.as_path()), ("to-file", secret.as_path()), ("to-root", "/root".as_ref())]
    {
        symlink(to, own.join(link)).expect("a new link");
    }
    let ro = |path: &Path| format!("{}:ro", text(path));
    let workspaces: [PathBuf; 4] = [theirs.clone(), own.join("to-dir"), own.join("to-root"), "/root".into()];
    for path in &workspaces {
        refused_with(world, &own, &["--workspace", &ro(path)], &["workspace.open"]);
    }
    for path in [
        &secret,
        &own.join("to-file"),
        &PathBuf::from("/root/file"),
        &world.daemon().runtime().join("leases/0"),
    ] {
        refused_with(world, &own, &["--read", text(path)], &["input.open"]);
    }
    // Named by a profile, which the service resolves and the user's own process opens.
    let profile = own.join("foreign.toml");
    let read = format!("schema = 1\nname = \"foreign\"\n[filesystem]\nread = [\"{}\"]\n", text(&secret));
    world.a().write(&profile, read);
    refused_with(world, &own, &["--profile", text(&profile)], &["input.open"]);
}

/// Whatever the link led to when it was opened is what the session gets, and that was the user's own right.
fn a_link_that_is_swapped_all_the_time_opens_nothing(world: &'static World) {
    let dir = world.workspace(world.a());
    let theirs = world.workspace(world.b());
    world.b().write(theirs.join("file"), "b's\n");
    world.a().write(dir.join("own/file"), "a's\n");
    let (link, spare) = (dir.join("link"), dir.join("spare"));
    symlink(dir.join("own"), &link).expect("a new link");
    symlink(&theirs, &spare).expect("a new link");
    let done = AtomicBool::new(false);
    let mut seen = [0, 0];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &link, CWD, &spare, RenameFlags::EXCHANGE)
                    .expect("both are there");
            }
        });
        for _ in 0..12 {
            let output = world
                .session_in(&dir)
                .options(["--workspace".into(), format!("{}:ro", text(&dir))])
                .option("--read")
                .option(text(&link))
                .run(["cat", text(&dir.join("own/file")), text(&theirs.join("file"))]);
            assert!(!output.text().contains("b's"), "{}", output.text());
            match output.code {
                Some(125) => {
                    let rules = ["input.open", "mount.duplicate", "offer.moved", "input.type"];
                    refused(output, &rules);
                    seen[0] += 1;
                }
                _ => {
                    assert_eq!(output.text(), "a's\n");
                    seen[1] += 1;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(seen[0] + seen[1], 12);
}

fn dots_lead_nowhere(world: &'static World) {
    let own = world.workspace(world.a());
    let theirs = world.b().home.display().to_string();
    refused_with(world, &own, &["--workspace", &format!("{}/..{theirs}:ro", "/home")], &["workspace.open"]);
    refused_with(world, &own, &["--read", "/usr/../root"], &["input.open"]);
    refused_with(
        world,
        &own,
        &["--mask", "../x"],
        &["mask.glob", "mask.form", "workspace.mask", "mask.path", "mask.name"],
    );
    for key in ["mask", "protect"] {
        let profile = own.join(format!("{key}.toml"));
        let toml = format!(
            "schema = 1\nname = \"dots\"\n[[filesystem.workspace]]\npath = \".\"\nmode = \"ro\"\n{key} = [\"a/../../x\"]\n"
        );
        world.a().write(&profile, toml);
        let output =
            world.session_in(&own).options(["--profile", text(&profile)]).run(["true"]).expect_code(125);
        assert!(output.stderr.contains("..") && output.stderr.lines().count() == 1, "{}", output.stderr);
    }
}

fn what_is_no_directory_is_no_workspace(world: &'static World) {
    let own = world.workspace(world.a());
    world.a().write(own.join("file"), "x");
    rustix::fs::mknodat(CWD, own.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0)
        .expect("a FIFO");
    let listener = UnixListener::bind(own.join("socket")).expect("a new socket");
    for entry in ["fifo", "socket"] {
        rustix::fs::chownat(
            CWD,
            own.join(entry),
            Some(rustix::process::Uid::from_raw(world.a().uid)),
            None,
            AtFlags::empty(),
        )
        .expect("root may");
    }
    for entry in
        ["file", "fifo", "socket"].map(|name| own.join(name)).iter().chain([&PathBuf::from("/dev/null")])
    {
        let rules = ["workspace.type", "plan.reserved"];
        refused_with(world, &own, &["--workspace", &format!("{}:ro", text(entry))], &rules);
    }
    for entry in ["fifo", "socket"].map(|name| own.join(name)).iter().chain([&PathBuf::from("/dev/zero")]) {
        refused_with(world, &own, &["--read", text(entry)], &["input.type", "plan.reserved"]);
    }
    drop(listener);
}

fn system_directories_are_the_sessions_own(world: &'static World) {
    let own = world.workspace(world.a());
    for path in ["/", "/usr", "/usr/share", "/etc", "/proc", "/sys", "/dev", "/bin"] {
        let output = world.session_in(&own).options(["--workspace", &format!("{path}:ro")]).run(["true"]);
        refused(output, &["plan.reserved", "workspace.home"]);
    }
}

fn a_profile_of_100_megabytes_is_not_read(world: &'static World) {
    let own = world.workspace(world.a());
    let huge = own.join("huge.toml");
    world.a().write(&huge, "schema = 1\n");
    let file = std::fs::OpenOptions::new().write(true).open(&huge).expect("ours");
    file.set_len(100 << 20).expect("sparse");
    refused_with(world, &own, &["--profile", text(&huge)], &["profile.size"]);
    // Endless ones, and one that would wait for ever.
    refused_with(world, &own, &["--profile", "/dev/zero"], &["profile.type"]);
    let fifo = own.join("fifo.toml");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("a FIFO");
    refused_with(world, &own, &["--profile", text(&fifo)], &["profile.open", "profile.type"]);
    // Within the size, but deep: a parser must not be made to recurse for ever.
    let deep = own.join("deep.toml");
    world.a().write(&deep, format!("x = {}", "[".repeat(900_000)));
    let output = world.session_in(&own).options(["--profile", text(&deep)]).run(["true"]).expect_code(125);
    assert!(output.stderr.lines().count() == 1 && output.stderr.len() < 4096, "{}", output.stderr);
    world.session_in(&own).option("--workspace").option(".:ro").run(["true"]).expect_code(0);
}

fn ten_thousand_mounts_are_refused(world: &'static World) {
    let own = world.workspace(world.a());
    let list = |from: usize| (from..10_000).map(|n| format!("\"/srv/m{n}\"")).collect::<Vec<_>>().join(",");
    let profiles = [
        ("read", format!("[filesystem]\nread = [{}]\n", list(0))),
        (
            "mask",
            format!(
                "[[filesystem.workspace]]\npath = \".\"\nmode = \"ro\"\nmask = [{}]\n",
                list(0).replace("\"/", "\"")
            ),
        ),
        (
            "scratch",
            (0..10_000)
                .map(|n| format!("[[filesystem.scratch]]\npath = \"/m{n}\"\nsize = \"4K\"\n"))
                .collect(),
        ),
    ];
    for (name, body) in profiles {
        let profile = own.join(format!("{name}.toml"));
        world.a().write(&profile, format!("schema = 1\nname = \"{name}\"\n{body}"));
        let output =
            world.session_in(&own).options(["--profile", text(&profile)]).run(["true"]).expect_code(125);
        let line = &output.stderr;
        assert!(line.lines().count() == 1 && line.len() < 4096, "{line}");
        assert!(
            ["plan.mounts", "plan.names", "profile.size"].iter().any(|rule| line.contains(rule)),
            "{line}"
        );
    }
    let flags: Vec<String> = (0..300).flat_map(|_| ["--read".to_owned(), "/srv".to_owned()]).collect();
    let output = world.session_in(&own).options(flags).run(["true"]);
    refused(output, &["request.size", "plan.mounts"]);
}

fn more_than_the_bounds_is_refused(world: &'static World) {
    let own = world.workspace(world.a());
    for (options, rule) in [
        (["--memory", "64G"], "bounds.memory"),
        (["--pids", "1000000"], "bounds.pids"),
        (["--cpus", "100000"], "bounds.cpus"),
        (["--disk", "100T"], "bounds.disk"),
        (["--timeout", "9999d"], "bounds.timeout"),
    ] {
        refused_with(world, &own, &options, &[rule]);
    }
}

/// The first protected name has to be made, the second one cannot be: the first must not stay.
fn a_refused_build_leaves_no_placeholder(world: &'static World) {
    let own = world.workspace(world.a());
    symlink("/etc", own.join("zlink")).expect("a new link");
    let profile = own.with_extension("toml");
    let toml = "schema = 1\nname = \"placeholders\"\n[[filesystem.workspace]]\npath = \".\"\nmode = \"direct\"\n\
                protect = [\"new/below/file\", \"zlink/passwd\"]\n";
    world.a().write(&profile, toml);
    refused_with(world, &own, &["--profile", text(&profile)], &["workspace.symlink"]);
    std::fs::remove_file(&profile).expect("ours");
    let left: Vec<_> = std::fs::read_dir(&own).expect("ours").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["zlink"], "a refused build left something in the caller's directory");
}

fn a_foreign_session_is_not_there(world: &'static World) {
    let session = world.session();
    let name = session.name().to_owned();
    session.option("--workspace").option(".:ro").run(["true"]).expect_code(0);
    let own = world.agentctl(world.a(), ["ps", "-a", "--json"]).expect_code(0);
    let line = own.text().lines().find(|line| line.contains(&name)).expect("one's own").to_owned();
    let id = serde_json::from_str::<serde_json::Value>(&line).expect("JSON")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let theirs = world.agentctl(world.b(), ["ps", "-a", "--json"]).expect_code(0);
    assert!(!theirs.text().contains(&id) && !theirs.text().contains(&name));
    // Not there, and not forbidden: in the same words as for an id that nobody ever had.
    for words in [vec!["kill"], vec!["rm"], vec!["events"]] {
        let ask = |id: &str| {
            let output = world.agentctl(world.b(), words.iter().copied().chain([id]));
            (output.code, output.stderr.replace(id, "ID"))
        };
        let (code, message) = ask(&id);
        assert_eq!(code, Some(3), "{words:?}: {message}");
        assert_eq!((code, message), ask("0123456789ab"), "{words:?}");
    }
    assert!(Session::new(world, world.b(), world.workspace(world.b())).name() != name);
}
