//! The session looks like the caller's own: name, numbers, home, environment.

use agentd_tests::harness::{Named, World};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    name_and_numbers,
    home_is_empty_scratch,
    passwd_has_the_caller,
    environment_is_an_allow_list,
    env_flags,
    files_look_like_their_owners,
    etc_is_small_and_public,
    temporary_directory,
    proc_shows_the_session_only,
    hostname_is_the_session,
    inputs_appear_where_they_are,
    working_directory_is_the_callers,
    network_is_loopback,
];

fn name_and_numbers(world: &World) {
    let user = world.a();
    let output =
        world.session().bash("whoami; id -u; id -g; id -G; echo $HOME; echo ~; groups").expect_code(0);
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    let home = user.home.display().to_string();
    assert_eq!(lines[0], user.name);
    assert_eq!(lines[1], user.uid.to_string());
    assert_eq!(lines[2], user.gid.to_string());
    let mut groups: Vec<u32> = lines[3].split(' ').map(|word| word.parse().expect("a number")).collect();
    let mut own = user.groups();
    own.push(user.gid);
    [&mut groups, &mut own].into_iter().for_each(|list| list.sort_unstable());
    assert_eq!(groups, own, "the caller's groups by number");
    // Each has a name, or shells complain when they start.
    assert_eq!(lines[6].split(' ').count(), own.len(), "{text}");
    assert_eq!(output.stderr, "");
    assert_eq!((lines[4], lines[5]), (home.as_str(), home.as_str()));
}

fn home_is_empty_scratch(world: &World) {
    let script = "ls -A ~ | grep -v '^w-' | wc -l; echo x > ~/.new && cat ~/.new; stat -c '%a %U' ~";
    let output = world.session().bash(script).expect_code(0);
    assert_eq!(output.text(), format!("0\nx\n700 {}\n", world.a().name));
    assert!(!world.a().home.join(".new").exists(), "the real home is untouched");
}

fn passwd_has_the_caller(world: &World) {
    let user = world.a();
    let output = world.session().bash("getent passwd \"$(whoami)\"; getent passwd 0").expect_code(0);
    let (name, uid, gid, home) = (&user.name, user.uid, user.gid, user.home.display());
    let text = output.text();
    assert!(text.starts_with(&format!("{name}:x:{uid}:{gid}:")), "{text}");
    assert!(text.contains(&format!(":{home}:/bin/bash\n")) && text.contains("\nroot:x:0:0:"), "{text}");
}

fn environment_is_an_allow_list(world: &World) {
    let session = world
        .session()
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("LD_PRELOAD_NOT", "x")
        .env("LC_TIME", "C.UTF-8")
        .env("EDITOR", "vi");
    let output = session.run(["env"]).expect_code(0);
    let text = output.text();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
    for name in ["HOME", "USER", "LOGNAME", "SHELL", "PATH", "PWD", "LANG", "LC_TIME", "EDITOR"] {
        assert!(names.contains(&name), "{name} in {text}");
    }
    for name in ["AWS_SECRET_ACCESS_KEY", "LD_PRELOAD_NOT", "SSH_AUTH_SOCK"] {
        assert!(!names.contains(&name), "{name} in {text}");
    }
}

fn env_flags(world: &World) {
    let session = world.session().env("MINE", "own value").options(["--env", "MINE", "--env", "OTHER=a=b c"]);
    let output = session.bash("echo \"$MINE|$OTHER\"").expect_code(0);
    assert_eq!(output.text(), "own value|a=b c\n");
}

fn files_look_like_their_owners(world: &World) {
    let workspace = world.workspace(world.a());
    world.a().write(workspace.join("mine"), "");
    let output =
        world.session_in(&workspace).bash("stat -c %U mine /usr/bin/env /etc/passwd / /usr").expect_code(0);
    let name = &world.a().name;
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], [name.as_str(), "root"], "{text}");
}

fn etc_is_small_and_public(world: &World) {
    let output = world.session().bash(
        "cd /etc && find . -type f -not -readable; ls shadow sudoers ssh/ssh_host_* 2>/dev/null | wc -l",
    );
    assert_eq!(output.text(), "0\n");
}

fn temporary_directory(world: &World) {
    let output = world
        .session()
        .bash("f=$(mktemp) && echo hi > $f && cat $f; ls -A /tmp | wc -l; ls -ld /tmp")
        .expect_code(0);
    assert!(output.text().starts_with("hi\n"), "{}", output.text());
    assert!(output.text().contains("drwxrwxrwt"), "{}", output.text());
}

fn proc_shows_the_session_only(world: &World) {
    let output = world.session().bash("cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l").expect_code(0);
    let text = output.text();
    let count: u32 = text.lines().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    assert!(count < 8, "{text}");
}

fn hostname_is_the_session(world: &World) {
    let output = world.session().bash("uname -n; cat /etc/hostname; getent hosts $(uname -n)").expect_code(0);
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert!(lines[0].len() == 12 && lines[2].starts_with("10.200.0.2"), "{text}");
}

fn inputs_appear_where_they_are(world: &World) {
    let user = world.a();
    let dir = user.home.join(world.unique("w"));
    user.write(dir.join("notes/a.txt"), "a note\n");
    user.write(dir.join("single"), "a file\n");
    let (notes, single) = (dir.join("notes"), dir.join("single"));
    let session = world.session().option("--read").option(&notes).option("--read").option(&single);
    let script = format!(
        "cat {0}/a.txt {1}; echo x > {0}/b; echo x > {1}; ls {2}",
        notes.display(),
        single.display(),
        dir.display()
    );
    let output = session.bash(&script);
    assert_eq!(output.text(), "a note\na file\nnotes\nsingle\n", "{}", output.stderr);
    assert!(!notes.join("b").exists());
}

fn working_directory_is_the_callers(world: &World) {
    let workspace = world.workspace(world.a());
    world.a().make_dir(workspace.join("sub"));
    let root = workspace.display().to_string();
    let output =
        world.session_in(workspace.join("sub")).options(["--workspace", &root]).run(["pwd"]).expect_code(0);
    assert_eq!(output.text(), format!("{root}/sub\n"));
}

fn network_is_loopback(world: &World) {
    let script = "exec 3<>/dev/tcp/127.0.0.1/1 || true; cat /proc/net/dev | tail -n +3 | cut -d: -f1 | xargs";
    let output = world.session().bash(script);
    assert_eq!(output.text().trim(), "lo");
    // Servers and clients inside of the session find each other.
    let python = "import socket,threading\ns=socket.create_server(('127.0.0.1',0))\nt=threading.Thread(target=lambda: s.accept()[0].sendall(b'hi'))\nt.start()\nprint(socket.create_connection(s.getsockname()).recv(9).decode())\nt.join()";
    if std::path::Path::new("/usr/bin/python3").exists() {
        assert_eq!(world.session().run(["/usr/bin/python3", "-c", python]).expect_code(0).text(), "hi\n");
    }
}
