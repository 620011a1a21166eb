//! The modes of a workspace, and names in it that are masked or protected.

use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use agentd_tests::harness::{Named, Session, World, text_at, wait_for_exit, within};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    overlay_leaves_the_directory_as_it_is,
    direct_writes_as_the_caller,
    ro_refuses_writes,
    what_the_caller_may_not_read_the_agent_may_not,
    masked_names_cannot_be_opened,
    masked_names_that_are_missing_cannot_be_made_in_direct,
    protected_names_stay_as_they_are,
    placeholders_are_taken_away,
    a_covered_name_replaced_outside_ends_the_session,
    two_direct_sessions_share_placeholders,
    two_users_share_placeholders_in_direct,
    nothing_is_made_in_the_callers_directories_for_scratch,
    a_link_on_the_way_to_a_mask_is_refused,
    direct_with_a_socket_is_refused,
    the_home_is_no_workspace,
    links_to_a_workspace_are_followed,
    deep_names,
    odd_names,
    overlay_is_deleted_by_rm,
    many_files,
];

fn project(world: &World) -> PathBuf {
    let workspace = world.workspace(world.a());
    let write = |name: &str, text: &str| world.a().write(workspace.join(name), text);
    write("README", "hello\n");
    write(".env", "KEY=secret\n");
    write("conf/secret.key", "secret\n");
    write("conf/plain", "plain\n");
    write(".git/config", "[core]\n");
    world.a().make_dir(workspace.join(".git/hooks"));
    workspace
}

fn overlay_leaves_the_directory_as_it_is(world: &World) {
    let dir = project(world);
    let script =
        "echo changed > README; echo new > new; rm conf/plain; mv conf/secret.key moved; ls; cat README";
    let output = world.session_in(&dir).bash(script).expect_code(0);
    assert!(output.text().contains("changed") && output.text().contains("moved"), "{}", output.text());
    assert_eq!(std::fs::read_to_string(dir.join("README")).expect("the file"), "hello\n");
    assert!(
        dir.join("conf/plain").exists() && dir.join("conf/secret.key").exists() && !dir.join("new").exists()
    );
}

fn direct_writes_as_the_caller(world: &World) {
    let dir = project(world);
    let script = "echo changed > README; echo new > new; mkdir d; ln -s README link; stat -c %U new";
    let output = world.session_in(&dir).options(["--workspace", ".:direct"]).bash(script).expect_code(0);
    assert_eq!(output.text(), format!("{}\n", world.a().name));
    let meta = std::fs::metadata(dir.join("new")).expect("the new file");
    assert_eq!((meta.uid(), meta.gid()), (world.a().uid, world.a().gid));
    assert_eq!(std::fs::read_to_string(dir.join("README")).expect("the file"), "changed\n");
    assert!(dir.join("d").is_dir() && dir.join("link").is_symlink());
}

fn ro_refuses_writes(world: &World) {
    let dir = project(world);
    let script = "cat README; echo x > README; echo x > new; mkdir d; rm README; touch README; true";
    let output = world.session_in(&dir).options(["--workspace", ".:ro"]).bash(script).expect_code(0);
    assert_eq!(output.text(), "hello\n");
    assert_eq!(output.stderr.lines().count(), 5, "{}", output.stderr);
    assert!(!dir.join("new").exists());
}

fn what_the_caller_may_not_read_the_agent_may_not(world: &World) {
    let dir = project(world);
    std::fs::write(dir.join("roots"), "roots\n").expect("root's own file");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.join("roots"), std::fs::Permissions::from_mode(0o600))
        .expect("root's own file");
    for mode in ["overlay", "direct", "ro"] {
        let output = world
            .session_in(&dir)
            .options(["--workspace", &format!(".:{mode}")])
            .bash("cat roots || echo denied; cat README")
            .expect_code(0);
        assert_eq!(output.text(), "denied\nhello\n", "{mode}");
    }
}

fn masked_names_cannot_be_opened(world: &World) {
    let dir = project(world);
    for mode in ["overlay", "direct", "ro"] {
        let output = world
            .session_in(&dir)
            .options(["--workspace", &format!(".:{mode}"), "--mask", "conf/secret.key"])
            .bash("cat .env conf/secret.key; cat conf/plain; echo x >> .env; echo x >> conf/secret.key; true")
            .expect_code(0);
        assert_eq!(output.text(), "plain\n", "{mode}: {}", output.stderr);
    }
    assert_eq!(std::fs::read_to_string(dir.join(".env")).expect("the file"), "KEY=secret\n");
    // A directory is masked with all that is in it.
    let output = world.session_in(&dir).options(["--mask", "conf"]).bash("ls -A conf | wc -l").expect_code(0);
    assert_eq!(output.text(), "0\n");
}

fn masked_names_that_are_missing_cannot_be_made_in_direct(world: &World) {
    let dir = world.workspace(world.a());
    let script = "echo leaked > .env; mkdir .env; cat .env; mkdir -p .git/hooks; echo x > .git/hooks/post-commit; true";
    let output = world.session_in(&dir).options(["--workspace", ".:direct"]).bash(script).expect_code(0);
    assert_eq!(output.text(), "");
    assert!(!dir.join(".env").exists(), "gone before `run` returns");
    // A repository that is made is no repository of the user's: it is reported.
    assert!(output.stderr.contains("/.git (a new repository)"), "{}", output.stderr);
}

fn protected_names_stay_as_they_are(world: &World) {
    let dir = project(world);
    world.a().write(dir.join(".git/info/attributes"), "* text\n");
    let profile = dir.join("p.toml");
    let text = "schema = 1\nname = 'p'\nextends = ['default']\n[[filesystem.workspace]]\npath = '.'\nprotect = ['conf/plain', 'README']\n";
    world.a().write(&profile, text);
    let config = || std::fs::read_to_string(dir.join(".git/config")).expect("a file");
    for mode in ["overlay", "direct"] {
        // What git follows may change inside, other names may not.
        let script = "echo evil >> .git/config; echo evil > .git/hooks/pre-commit; tail -1 .git/config; echo ok > .git/HEAD; cat .git/HEAD
            echo x > conf/plain; mv conf other; rm -f README; cat conf/plain README p.toml | wc -l; echo x >> p.toml; true";
        let session = world.session_in(&dir).option("--profile").option(&profile);
        let output = session.options(["--workspace", &format!(".:{mode}")]).bash(script).expect_code(0);
        assert_eq!(output.text(), "evil\nok\n8\n", "{mode}: {}", output.stderr);
        assert_eq!(config(), "[core]\n", "{mode}");
        assert!(!dir.join(".git/hooks/pre-commit").exists(), "{mode}");
        assert_eq!(std::fs::read_to_string(&profile).ok().as_deref(), Some(text), "{mode}");
    }
}

fn placeholders_are_taken_away(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("README"), "x");
    world.session_in(&dir).options(["--workspace", ".:direct"]).run(["true"]).expect_code(0);
    holds_one_file_only(&dir);
}

/// Placeholders are gone before `run` returns.
#[track_caller]
fn holds_one_file_only(dir: &Path) {
    let names: Vec<_> =
        std::fs::read_dir(dir).expect("the workspace").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 1, "held names are given back: {names:?}");
}

fn end_of(child: &mut Child) -> Option<i32> {
    wait_for_exit(child, Duration::from_secs(10)).expect("it ends").code()
}

fn a_covered_name_replaced_outside_ends_the_session(world: &World) {
    let dir = project(world);
    world.a().write(dir.join("new"), "KEY=other\n");
    let session = world.session_in(&dir).options(["--workspace", ".:direct"]);
    let mut child = session.spawn_ready("echo ready; sleep 60");
    // As an editor does that saves to a new file first.
    let rename = ["mv", "-f", "new", ".env"].map(String::from);
    world.on_host(world.a(), &dir, &rename).expect_code(0);
    assert_eq!(end_of(&mut child), Some(125));
    let why = "a masked or protected name of its workspace was replaced from outside";
    let said = std::io::read_to_string(child.stderr.take().expect("a pipe")).expect("text");
    assert!(said.contains(why), "{said}");
    let events = world.all_events(world.a(), session.name());
    let ended = &events.last().expect("an end")["lifecycle"];
    assert_eq!((text_at(ended, "/reason"), text_at(ended, "/message")), ("failed".into(), why.into()));
}

fn two_direct_sessions_share_placeholders(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("README"), "x");
    let session = || world.session_in(&dir).options(["--workspace", ".:direct"]);
    let (first, second) = (session(), session());
    let mut one = first.spawn_ready("echo ready; read");
    let mut two = second.spawn_ready("echo ready; read; (echo x > .env; rm .env) 2>/dev/null; exit 7");
    drop(one.stdin.take());
    assert_eq!(end_of(&mut one), Some(1), "the end of its input");
    // The first session's placeholders would be gone by now.
    world.agentctl(world.a(), ["rm", first.name()]).expect_code(0);
    std::thread::sleep(Duration::from_millis(500));
    drop(two.stdin.take());
    assert_eq!(end_of(&mut two), Some(7), "the second lives on");
    holds_one_file_only(&dir);
}

/// The end of one user's session neither ends nor uncovers another's, whichever user made the placeholders.
fn two_users_share_placeholders_in_direct(world: &World) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = std::env::temp_dir().join(world.unique("shared"));
    world.a().write(dir.join("README"), "x");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    for (first, second) in [(world.a(), world.b()), (world.b(), world.a())] {
        let session = |user| Session::new(world, user, &dir).options(["--workspace", ".:direct"]);
        let (one, two) = (session(first), session(second));
        let mut first_child = one.spawn_ready("echo ready; read");
        let mut second_child =
            two.spawn_ready("echo ready; read; cat .env; (echo x > .env; rm .env) 2>/dev/null; exit 7");
        drop(first_child.stdin.take());
        assert_eq!(end_of(&mut first_child), Some(1), "the end of its input");
        let gone = || match world.agentctl(first, ["rm", one.name()]).code {
            Some(0) => Ok(()),
            code => Err(code),
        };
        assert_eq!(within(Duration::from_secs(5), gone), Ok(()));
        assert!(dir.join(".env").exists(), "the second session covers it");
        // It was made while the session runs: still nobody in it reads it.
        std::fs::write(dir.join(".env"), "SECRET\n").expect("the placeholder");
        drop(second_child.stdin.take());
        assert_eq!(end_of(&mut second_child), Some(7), "the second lives on");
        let said = std::io::read_to_string(second_child.stdout.take().expect("a pipe")).expect("text");
        assert!(!said.contains("SECRET"), "{said}");
        std::fs::remove_file(dir.join(".env")).expect("what was written to it stays");
        // And of one that stays empty nothing is left.
        let (one, two) = (session(first), session(second));
        let mut first_child = one.spawn_ready("echo ready; read");
        let mut second_child = two.spawn_ready("echo ready; read");
        drop(first_child.stdin.take());
        assert_eq!(end_of(&mut first_child), Some(1));
        drop(second_child.stdin.take());
        assert_eq!(end_of(&mut second_child), Some(1));
        let left = || if dir.join(".env").exists() { Err(()) } else { Ok(()) };
        assert_eq!(within(Duration::from_secs(5), left), Ok(()), "it was the first user's to take away");
    }
    std::fs::remove_dir_all(&dir).expect("the shared directory");
}

fn nothing_is_made_in_the_callers_directories_for_scratch(world: &World) {
    let dir = world.workspace(world.a());
    let text = format!(
        "schema = 1\nextends = [\"default\"]\n[[filesystem.workspace]]\npath = \".\"\nmode = \"direct\"\n\
         [[filesystem.scratch]]\npath = \"{}/build/cache\"\n",
        dir.display()
    );
    world.a().write(dir.join("p.toml"), text);
    let output = world.session_in(&dir).options(["--profile", "./p.toml"]).run(["true"]).expect_code(125);
    assert!(output.stderr.contains("(path.nested)"), "{}", output.stderr);
    holds_one_file_only(&dir);
    // A directory that is there is covered.
    world.a().make_dir(dir.join("build/cache"));
    let script = "echo x > build/cache/x; cat build/cache/x";
    let output = world.session_in(&dir).options(["--profile", "./p.toml"]).bash(script).expect_code(0);
    assert_eq!(output.text(), "x\n");
    assert!(!dir.join("build/cache/x").exists());
}

fn a_link_on_the_way_to_a_mask_is_refused(world: &World) {
    let dir = project(world);
    symlink("conf", dir.join("alias")).expect("a new link");
    let output =
        world.session_in(&dir).options(["--mask", "alias/secret.key"]).run(["true"]).expect_code(125);
    assert!(
        output.stderr.starts_with("agentctl: refused: ") && output.stderr.contains("workspace.symlink"),
        "{}",
        output.stderr
    );
}

fn direct_with_a_socket_is_refused(world: &World) {
    let dir = project(world);
    let _listener = UnixListener::bind(dir.join("sock")).expect("a new socket");
    let output = world.session_in(&dir).options(["--workspace", ".:direct"]).run(["true"]).expect_code(125);
    assert!(
        output.stderr.starts_with("agentctl: refused: ") && output.stderr.contains("sock"),
        "{}",
        output.stderr
    );
    world.session_in(&dir).run(["true"]).expect_code(0);
}

fn the_home_is_no_workspace(world: &World) {
    let output = world.session_in(&world.a().home).run(["true"]).expect_code(125);
    assert!(output.stderr.contains("(workspace.home)"), "{}", output.stderr);
}

fn links_to_a_workspace_are_followed(world: &World) {
    let dir = project(world);
    let link = world.a().home.join(world.unique("w"));
    symlink(&dir, &link).expect("a new link");
    let output = world
        .session()
        .option("--workspace")
        .option(&link)
        .run(["cat", &format!("{}/README", dir.display())]);
    std::fs::remove_file(&link).ok();
    assert_eq!(output.expect_code(0).text(), "hello\n");
}

fn deep_names(world: &World) {
    let dir = world.workspace(world.a());
    let deep: PathBuf = std::iter::repeat_n("directory", 40).collect();
    world.a().write(dir.join(&deep).join("key"), "secret");
    let name = deep.join("key").display().to_string();
    let output = world
        .session_in(&dir)
        .options(["--workspace", ".:direct", "--mask", &name])
        .bash(&format!("cat {name}; mv directory d2; mv {0} {0}2; true", deep.display()))
        .expect_code(0);
    assert_eq!(output.text(), "");
    assert!(dir.join(&deep).join("key").exists(), "nothing was renamed");
}

fn odd_names(world: &World) {
    let dir = world.workspace(world.a());
    let odd = dir.join("a b:c,d=e\\f\"g'ü#");
    world.a().write(odd.join("file"), "here\n");
    for mode in ["overlay", "direct", "ro"] {
        let output = world
            .session_in(&odd)
            .options(["--workspace", &format!(".:{mode}")])
            .bash("cat file; pwd")
            .expect_code(0);
        assert_eq!(output.text(), format!("here\n{}\n", odd.display()), "{mode}");
    }
}

fn overlay_is_deleted_by_rm(world: &World) {
    let dir = project(world);
    let output = world.session_in(&dir).bash("echo x > new").expect_code(0);
    let id = text_at(&world.all_events(world.a(), &output.name)[0], "/session");
    let overlay = world.daemon().state().join(format!("overlays/u{}/{id}", world.a().uid));
    assert!(overlay.join("0/upper/new").exists(), "the overlay is kept for review");
    world.agentctl(world.a(), ["rm", &output.name]).expect_code(0);
    world.agentctl(world.a(), ["kill", &output.name]).expect_code(3);
    assert!(!overlay.exists(), "the overlay is deleted");
}

fn many_files(world: &World) {
    let dir = world.workspace(world.a());
    for number in 0..2000 {
        world.a().write(dir.join(format!("d{}/f{number}", number % 20)), "x");
    }
    let output = world
        .session_in(&dir)
        .bash("find . -type f | wc -l; rm -r d1?; find . -type f | wc -l")
        .expect_code(0);
    assert_eq!(output.text(), "2000\n1000\n");
}
