//! Directories that are renamed, programs in /tmp, and what is given to read and to write.

use std::path::Path;

use agentd_tests::harness::{Named, World};
use agentd_tests::tests;

use super::{has, outside, same, session};

pub const TESTS: &[Named] = tests![
    directories_are_renamed,
    directories_are_renamed_by_git,
    a_renamed_directory_takes_its_masks_along,
    marks_of_overlays_cannot_be_forged,
    programs_run_in_tmp,
    a_profile_can_keep_programs_out_of_tmp,
    inputs_look_as_outside,
    what_is_on_the_way_to_an_input_can_be_written,
    inputs_through_links,
    git_in_an_input,
    directories_to_write_to,
    what_runs_by_itself_is_not_written_to,
    several_workspaces,
];

/// A directory `src` with something below, as the user's.
fn project(world: &World, dir: &Path) {
    world.a().write(dir.join("src/deep/file"), "text\n");
    world.a().write(dir.join("src/other"), "other\n");
    world.a().write(dir.join("docs/page"), "page\n");
}

fn directories_are_renamed(world: &World) {
    let mut ways = vec!["mv src lib"];
    ways.extend(has(&["python3"]).then_some("python3 -c 'import os; os.rename(\"src\", \"lib\")'"));
    ways.extend(has(&["perl"]).then_some("perl -e 'rename(\"src\", \"lib\") or die $!'"));
    ways.extend(has(&["node"]).then_some("node -e 'fs.renameSync(\"src\", \"lib\")'"));
    for way in ways {
        let script = format!(
            "set -e; {way}; cat lib/deep/file; mv lib/deep docs/deep; mkdir src; echo new > src/deep; mv docs lib/docs
            find . -type f | sort; cat lib/docs/deep/file src/deep; rm -r lib/docs; find . ! -name .env | sort"
        );
        let said = same(world, &[], &|dir| project(world, dir), &script);
        assert!(said.contains("./lib/docs/deep/file"), "{way}: {said}");
    }
    // What is outside stays as it was.
    let dir = world.workspace(world.a());
    project(world, &dir);
    session(world, &dir).bash("mv src lib && rm -r lib/deep").expect_code(0);
    assert!(dir.join("src/deep/file").exists() && !dir.join("lib").exists());
}

fn directories_are_renamed_by_git(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let fill = |dir: &Path| {
        project(world, dir);
        let commit =
            "git init -q -b main && git add . && git -c user.name=a -c user.email=a@b commit -qm first";
        outside(world.a(), dir, commit).expect_code(0);
    };
    let script = "set -e; git mv src lib; git status --short; git mv lib/deep docs/deep; git -c user.name=a -c \
                  user.email=a@b commit -qm moved; git ls-files; git status --short";
    let said = same(world, &[], &fill, script);
    assert!(said.contains("R  src/deep/file -> lib/deep/file"), "{said}");
}

/// A secret in a directory of the lower layer, and the directory renamed, with and without what is above it.
fn a_renamed_directory_takes_its_masks_along(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("api/.env"), "KEY=secret\n");
    world.a().write(dir.join("a/b/c/key"), "KEY=secret\n");
    let script = "mv api moved; mv a away; mkdir api; mv moved api/in 2>/dev/null
        find . -name .env -o -name key | while read f; do cat $f; cp $f copy; done; grep -r secret . ; true";
    let output = session(world, &dir).options(["--mask", "a/b/c/key"]).bash(script).expect_code(0);
    assert!(!output.text().contains("secret"), "{}", output.text());
}

/// `trusted.*` is not the agent's, and what is means nothing.
fn marks_of_overlays_cannot_be_forged(world: &World) {
    if !has(&["python3"]) {
        return;
    }
    let dir = world.workspace(world.a());
    project(world, &dir);
    let script = "
import errno, os
for name in ('redirect', 'opaque', 'metacopy', 'origin'):
    try:
        os.setxattr('src', 'trusted.overlay.' + name, b'/docs'); print('set')
    except OSError as e:
        print(errno.errorcode[e.errno])
os.rename('src', 'lib')
print([name for name in os.listxattr('lib') if 'overlay' in name])
try:
    os.getxattr('lib', 'trusted.overlay.redirect'); print('read')
except OSError as e:
    print(errno.errorcode[e.errno])
for name in ('redirect', 'opaque'):
    try: os.setxattr('lib', 'user.overlay.' + name, b'y')
    except OSError as e: print('user', errno.errorcode[e.errno])
print(sorted(os.listdir('lib')), open('lib/deep/file').read())
";
    let output = session(world, &dir).run(["/usr/bin/python3", "-c", script]).expect_code(0);
    let expected = "EPERM\nEPERM\nEPERM\nEPERM\n[]\nENODATA\n['deep', 'other'] text\n\n";
    assert_eq!(output.text(), expected);
}

fn programs_run_in_tmp(world: &World) {
    let mut script = "set -e; cp /bin/echo /tmp/say-$$; /tmp/say-$$ ran; rm /tmp/say-$$; cp /bin/echo /var/tmp/say-$$
        /var/tmp/say-$$ ran; rm /var/tmp/say-$$; cp /bin/echo /dev/shm/say-$$; /dev/shm/say-$$ ran; rm /dev/shm/say-$$\n"
        .to_owned();
    if has(&["python3"]) {
        // What builds and loads in temporary files: ctypes, go test, Java's System.load.
        script += "lib=$(mktemp); cp $(ldconfig -p 2>/dev/null | awk '/libz.so.1 /{print $NF; exit}' | grep . || ls \
                   /usr/lib/*/libz.so.1) $lib; python3 -c \"import ctypes; print(ctypes.CDLL('$lib').zlibVersion() != 0)\"; rm $lib";
    }
    let said = same(world, &[], &|_| {}, &script);
    assert!(said.starts_with("ran\nran\nran\n"), "{said}");
}

fn a_profile_can_keep_programs_out_of_tmp(world: &World) {
    let dir = world.workspace(world.a());
    let profile = dir.join("p.toml");
    let text = "schema = 1\nname = 'p'\nextends = ['default']\n[[filesystem.scratch]]\npath = '/tmp'\nexec = false\n";
    world.a().write(&profile, text);
    let session = session(world, &dir).options(["--profile", profile.to_str().expect("UTF-8")]);
    session.bash("cp /bin/true /tmp/t; /tmp/t").expect_code(126);
}

/// What a directory is to who lists it.
const LOOK: &str = "stat -c '%n %U:%G %a %s %Y' INPUT INPUT/f INPUT/d; cat INPUT/f; ls -a INPUT";

fn inputs_look_as_outside(world: &World) {
    let input = world.workspace(world.a());
    let fill = "echo text > f; mkdir d; chmod 640 f; chmod 711 d; touch -d 2001-02-03 f d; chmod 700 .; touch -d 2002-03-04 .";
    outside(world.a(), &input, fill).expect_code(0);
    let script = LOOK.replace("INPUT", &input.to_string_lossy());
    let here = outside(world.a(), &world.workspace(world.a()), &script).expect_code(0);
    let there = world.session().option("--read").option(&input).bash(&script).expect_code(0);
    // A view's own size of a directory is the file system's.
    assert_eq!(here.text(), there.text());
    assert!(here.text().contains(&format!("{} {}:", input.display(), world.a().name)), "{}", here.text());
}

fn what_is_on_the_way_to_an_input_can_be_written(world: &World) {
    let name = world.unique("cache");
    let cache = world.a().home.join(&name);
    world.a().write(cache.join("pip/wheels/w"), "wheel\n");
    let script = format!(
        "set -e; cat ~/{name}/pip/wheels/w; mkdir ~/{name}/go-build; echo x > ~/{name}/go-build/x; stat -c '%U %a' ~/{name}
        ! echo x > ~/{name}/pip/new"
    );
    let there = world.session().option("--read").option(cache.join("pip")).bash(&script);
    std::fs::remove_dir_all(&cache).expect("the user's own");
    let there = there.expect_code(0);
    assert_eq!(there.text(), format!("wheel\n{} 755\n", world.a().name), "{}", there.stderr);
}

fn inputs_through_links(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("real/lib/f"), "text\n");
    world.a().write(dir.join("real/more/g"), "more\n");
    let script =
        "ln -s real way; ln -s f real/lib/again; ln -s more real/other; ln -s ../other/g real/lib/across";
    outside(world.a(), &dir, script).expect_code(0);
    let [way, other] = ["way/lib", "real/other"].map(|name| dir.join(name));
    let places = [
        way.join("f"),
        dir.join("real/lib/again"),
        other.join("g"),
        dir.join("real/more/g"),
        way.join("across"),
    ];
    let script = places.map(|place| format!("cat {}\n", place.display())).concat();
    let here = outside(world.a(), &dir, &script);
    let session = world.session().option("--read").option(&way).option("--read").option(&other);
    let there = session.bash(&script);
    assert_eq!((here.code, here.text()), (there.code, there.text()), "{}\n{}", here.stderr, there.stderr);
}

fn git_in_an_input(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let input = world.workspace(world.a());
    project(world, &input);
    let commit = "git init -q -b main && git add . && git -c user.name=a -c user.email=a@b commit -qm first";
    outside(world.a(), &input, commit).expect_code(0);
    let script = format!("git -C {0} status --short && git -C {0} log --format=%s", input.display());
    let there = world.session().option("--read").option(&input).bash(&script).expect_code(0);
    assert_eq!((there.text().as_str(), there.stderr.as_str()), ("first\n", ""));
}

fn directories_to_write_to(world: &World) {
    let out = world.workspace(world.a());
    world.a().write(out.join(".git/config"), "[core]\n");
    world.a().write(out.join(".env"), "KEY=secret\n");
    let script = format!("cd {}; echo done > result; cat .env; echo x > .git/config; pwd", out.display());
    let output = world.session().option("--write").option(&out).bash(&script).expect_code(0);
    assert_eq!(output.text(), format!("{}\n", out.display()), "{}", output.stderr);
    assert_eq!(std::fs::read_to_string(out.join("result")).expect("it was written"), "done\n");
    assert_eq!(std::fs::read_to_string(out.join(".git/config")).expect("a file"), "[core]\n");
    let file = world.session().option("--write").option(out.join("result")).bash("true").expect_code(125);
    assert!(file.stderr.contains("(workspace.type): name a directory"), "{}", file.stderr);
}

fn what_runs_by_itself_is_not_written_to(world: &World) {
    for name in [".ssh", ".config", ".config/autostart", ".local", ""] {
        let place = world.a().home.join(name);
        world.a().make_dir(&place);
        let refused = world.session().option("--write").option(&place).bash("true").expect_code(125);
        let rule = if name.is_empty() { "(workspace.home)" } else { "(workspace.startup)" };
        assert!(refused.stderr.contains(rule), "{name}: {}", refused.stderr);
    }
    let bin = world.workspace(world.a());
    // In such a directory, below it, and above one that is still missing.
    for (place, below) in [(bin.clone(), ""), (bin.join("below"), ""), (bin.clone(), "/tools/bin")] {
        world.a().make_dir(&place);
        let path = format!("/usr/bin:/bin:{}{below}", bin.display());
        let session = world.session().option("--write").option(&place).env("PATH", path);
        let refused = session.bash("true").expect_code(125);
        assert!(refused.stderr.contains("is in your PATH (workspace.path)"), "{}", refused.stderr);
    }
}

fn several_workspaces(world: &World) {
    let [first, second, third] = [(); 3].map(|()| world.workspace(world.a()));
    for (dir, text) in [(&first, "one\n"), (&second, "two\n"), (&third, "three\n")] {
        world.a().write(dir.join("f"), text);
        world.a().write(dir.join(".env"), "KEY=secret\n");
    }
    let option = |dir: &Path, mode: &str| format!("{}{mode}", dir.display());
    let (first_mode, second_mode, third_mode) =
        (option(&first, ""), option(&second, ":ro"), option(&third, ":direct"));
    let session = world.session().options([
        "--workspace",
        &first_mode,
        "--workspace",
        &second_mode,
        "--workspace",
        &third_mode,
    ]);
    let places = format!("{0}/f {1}/f {2}/f", first.display(), second.display(), third.display());
    let script =
        format!("pwd; cat {places}; for f in {places}; do echo new > $f; done; cat {}/.env", third.display());
    let output = session.bash(&script);
    assert_eq!(output.text(), format!("{}\none\ntwo\nthree\n", first.display()), "{}", output.stderr);
    let now = |dir: &Path| std::fs::read_to_string(dir.join("f")).expect("a file");
    assert_eq!([now(&first), now(&second), now(&third)], ["one\n", "two\n", "new\n"]);
}
