//! A home with what the documents' commands work on: a project with a repository, profiles, directories of tools.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use agentd_tests::harness::{User, World};

/// `agentctl` as a document calls it, without a person at the keyboard: what follows or stays attached is interrupted
/// after a moment, and a program that this host lacks makes a dry run of its session.
const AGENTCTL: &str = r#"#!/bin/bash
moment=(timeout -s INT 3)
case $1 in
run)
    for ((i = 1; i <= $#; i++)); do
        [ "${!i}" != -- ] || { program=${*:i+1:1}; break; }
    done
    command -v "$program" >/dev/null || set -- run --dry-run "${@:2}"
    if [ "$program" = ./agent.sh ] && [[ " $* " != *" --detach "* ]]; then
        echo | REAL "$@"
        exit
    fi
    ;;
attach) set -- attach --watch "${@:2}"; follow=1 ;;
esac
[[ " $* " != *" -f "* || $1 = rm ]] || follow=1
if [ -n "${follow:-}" ]; then "${moment[@]}" REAL "$@"; else REAL "$@"; fi
code=$?
# Whether this host lacks something is no matter of the documents.
[ "$1 $code" != "doctor 1" ] || code=0
[ $code != 124 ] || code=0
exit $code
"#;

/// Ends at once with a line on its standard input; without one it stays until it is stopped.
const AGENT: &str = "#!/bin/bash\necho working\nread -r || exec sleep 120\n";

pub(crate) struct Home<'a> {
    world: &'a World,
    user: &'a User,
    dir: PathBuf,
}

impl<'a> Home<'a> {
    pub(crate) fn make(world: &'a World, user: &'a User) -> Self {
        let dir = world.workspace(user);
        let real = world.daemon().agentctl();
        let at = |name: &str| dir.join(name);
        let program = |name: &str, text: &str| {
            user.write(at(name), text);
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(0o755)).expect("our own file");
        };
        program("bin/agentctl", &AGENTCTL.replace("REAL", &real.to_string_lossy()));
        program("project/agent.sh", AGENT);
        program("project/ci/agent.sh", "#!/bin/bash\necho done\n");
        program(".local/bin/claude", "#!/bin/bash\n");
        for dir in [".nvm", ".codex", ".local/pipx", "notes"] {
            user.make_dir(at(dir));
        }
        let profile = "schema = 1\nname = \"agent\"\nextends = [\"default\"]\n";
        user.write(at("project/agent.toml"), profile);
        user.write(at("project/ci/agent.toml"), profile);
        user.write(at("project/analyse.py"), "print(1)\n");
        user.write(at("project/package.json"), "{\"scripts\": {\"dev\": \"true\"}}\n");
        user.write(at("project/Makefile"), "all check:\n\t@true\n");
        user.write(at(".gitconfig"), "[user]\n\tname = a\n\temail = a@example.org\n");
        let home = Self { world, user, dir };
        home.recipes();
        home.bash("git init -q && git add . && git commit -qm first");
        home
    }

    /// The profiles that profiles.md shows, under their names.
    fn recipes(&self) {
        let text = include_str!("../../docs/profiles.md");
        for block in text.split("```toml").skip(1).filter_map(|rest| rest.split("```").next()) {
            let name = block.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
            if let (true, Some(name)) = (block.contains("schema = 1"), name) {
                self.user.write(self.dir.join(format!(".config/agentd/profiles/{name}.toml")), block);
            }
        }
    }

    /// Runs a script in the project, as far as its first command that fails.
    pub(crate) fn bash(&self, script: &str) -> Output {
        let mut command: Command = self.user.command("/usr/bin/timeout");
        command.args(["-k", "5", "120", "bash", "-euc", script]);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.dir.join("bin").display());
        command.env("PATH", path).env("HOME", &self.dir).env("CI_JOB_ID", "1").env("name", "review");
        command.env("AGENTD_SOCKET", self.world.daemon().socket());
        command.current_dir(self.dir.join("project")).stdin(std::process::Stdio::null());
        command.output().expect("bash")
    }

    /// What a script printed.
    pub(crate) fn shown(&self, output: &Output) -> String {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}
