"""The package: what it brings, how it is installed, upgraded and removed."""

import json

from . import check, need


@check
def install(run):
    """A fresh host with systemd: one command, and the daemon runs."""
    said = run.install(run.deb)
    for unit in ("agentd.service", "agentd-launcher.service"):
        need(run.vm.sh(f"systemctl is-active {unit}").strip() == "active", f"{unit} is not active: {said}")
        need(run.vm.sh(f"systemctl is-enabled {unit}").strip() == "enabled", f"{unit} is not enabled")
    return run.vm.sh("agentctl version | head -n 2 | xargs").strip()


@check
def accounts_and_pool(run):
    """The account, both groups, and the reserved range; twice over changes nothing."""
    vm = run.vm
    vm.sh("getent passwd agentd | grep -q nologin; getent group agentd agentd-admin")
    before = vm.sh("cat /etc/subuid /etc/subgid")
    need(before.count(":1900000000:65536") == 2, before)
    vm.sh("/usr/lib/agentd/uid-pool reserve")
    need(vm.sh("cat /etc/subuid /etc/subgid") == before, "the second reservation changed something")
    said = vm.run("cp /etc/subgid /root/kept; echo somebody:1900060000:10 >> /etc/subgid; "
                  "/usr/lib/agentd/uid-pool reserve; code=$?; cp /root/kept /etc/subgid; exit $code")
    need(said.code == 1 and "somebody:1900060000:10" in said.out, repr(said))
    need(vm.sh("cat /etc/subuid /etc/subgid") == before, "a refused reservation changed something")


@check
def modes_of_files(run):
    """What is root's alone, and what the service may write."""
    for path, wanted in {
        "/etc/agentd/agentd.toml": "644 root root", "/etc/agentd/profiles.d": "755 root root",
        "/etc/agentd/secrets.d": "700 root root", "/var/lib/agentd": "711 root root",
        "/var/lib/agentd/audit": "700 agentd agentd", "/run/agentd/agentd.sock": "660 root agentd",
    }.items():
        found = run.vm.sh(f"stat -c '%a %U %G' {path}").strip()
        need(found == wanted, f"{path}: {found}, not {wanted}")


@check
def manual_pages(run):
    """All of them render without a warning; every subcommand has one."""
    vm = run.vm
    pages = vm.sh("dpkg -L agentd | grep -E '/man[0-9]/.+'").split()
    said = vm.sh(f"for page in {' '.join(pages)}; do man --warnings -l \"$page\" 2>&1 >/dev/null; done", 300)
    need(not said.strip(), said)
    names = vm.sh("agentctl --help | sed -n '/^Commands:/,/^$/s/^  \\([a-z]\\+\\) .*/\\1/p'").split()
    for name in names:
        need(name == "help" or any(page.endswith(f"/agentctl-{name}.1.gz") for page in pages), f"no page of {name}")
    return f"{len(pages)} pages"


@check
def completions(run):
    """bash and zsh complete a subcommand; bash an option of it."""
    vm = run.vm
    vm.sh("""cat > /root/complete.bash <<'B'
. /usr/share/bash-completion/bash_completion
_completion_loader agentctl
complete_line() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
    "$(complete -p agentctl | sed 's/.*-F \\([^ ]*\\).*/\\1/')" agentctl "${@: -1}" "${@: -2:1}"
    echo "${COMPREPLY[@]}"
}
complete_line agentctl ru
complete_line agentctl run --works
B
bash /root/complete.bash > /root/completed
grep -qx run /root/completed; grep -qx -- --workspace /root/completed""")
    said = vm.sh("""zsh -fc 'autoload -Uz compinit; compinit -u; print $_comps[agentctl]; autoload +X _agentctl && print loaded'""")
    need(said.split() == ["_agentctl", "loaded"], said)


@check
def remove_keeps_data(run):
    """`apt remove` ends sessions and the daemon, and leaves what users and the site own."""
    vm = run.vm
    job = run.session("sleep 300 & echo up; wait", mark="up")
    vm.sh("touch /etc/agentd/profiles.d/ours.toml")
    vm.sh("DEBIAN_FRONTEND=noninteractive apt-get -qq -y remove agentd", 180)
    job.wait()
    need(vm.run("ps -eo comm= | grep '^agentd'").code == 1, "processes are left")
    need(vm.run("pgrep -x sleep -u alice").code == 1, "the session's command is left")
    vm.sh("test -e /etc/agentd/agentd.toml; test -e /etc/agentd/profiles.d/ours.toml; test -n \"$(ls /var/lib/agentd/audit)\"; grep -q agentd-pool /etc/subuid")
    left = vm.run("systemctl list-units --no-legend --state=active 'agentd*'; ls -d /sys/fs/cgroup/agentd* /run/agentd/*.sock").out
    need("active" not in left and "scope" not in left and ".sock" not in left.replace("/*.sock", ""), left)


def purge(vm):
    vm.sh("DEBIAN_FRONTEND=noninteractive dpkg --purge agentd", 180)


@check
def purge_leaves_nothing(run):
    """`apt purge` takes state, configuration and reservation away."""
    vm = run.vm
    purge(vm)
    left = vm.run("ls -d /etc/agentd /var/lib/agentd /run/agentd /usr/lib/agentd 2>/dev/null; grep agentd-pool /etc/sub?id; "
                  "ls -d /sys/fs/cgroup/agentd* 2>/dev/null; findmnt -rn | grep agentd; systemctl list-unit-files --no-legend 'agentd*'").out
    need(not left.strip(), left)


@check
def a_taken_pool_is_refused(run):
    """Somebody else has a part of the range: a clear message, nothing altered; another range fixes it."""
    vm = run.vm
    purge(vm)
    vm.sh("echo somebody:1900000000:65536 >> /etc/subuid")
    result = vm.run(f"DEBIAN_FRONTEND=noninteractive apt-get -y install {run.deb} 2>&1", 300)
    reserved = vm.sh("cat /etc/subuid /etc/subgid")
    need(result.code != 0 and "somebody else's" in result.out and "somebody:1900000000" in result.out, repr(result))
    need("agentd-pool" not in reserved, "it reserved a part")
    vm.sh("sed -i 's/^uids = .*/uids = \"1910000000-1910065535\"/' /etc/agentd/agentd.toml; dpkg --configure agentd", 180)
    need("agentd-pool:1910000000:65536" in vm.sh("cat /etc/subuid; sed -i /^somebody:/d /etc/subuid"), "no other range is reserved")
    vm.sh("systemctl is-active agentd agentd-launcher")
    purge(vm)


@check
def upgrade_keeps_sessions(run):
    """From the previous package, while one session runs and one is detached: both go on, their exit codes arrive, and
    no event of them is lost."""
    vm = run.vm
    purge(vm)
    run.install(run.previous)
    before = vm.sh("dpkg-query -W -f '${Version}' agentd")
    job = run.session("echo up; while [ ! -e go ]; do sleep 0.2; done; exit 7", mark="up", where="p/upgrade:direct")
    script = "echo before; until [ -e go ]; do sleep 0.2; done; /usr/bin/env echo after; exit 9"
    run.alice(f"mkdir -p detached; cd detached; agentctl run --detach --name kept --workspace .:direct -- bash -c '{script}'")
    old = vm.sh("systemctl show -P MainPID agentd-launcher").strip()
    said = run.install(run.deb)
    need(vm.sh("systemctl show -P MainPID agentd-launcher").strip() != old, f"the unit was not restarted: {said}")
    run.alice("touch upgrade/go detached/go")
    result = job.wait()
    need(result.code == 7, f"the session did not outlive the upgrade: {result!r}")
    ended = "until agentctl events kept --json | grep -q session.ended; do sleep 0.2; done; agentctl events kept --json"
    events = [json.loads(line) for line in run.alice(f"timeout 60 bash -c '{ended}'").out.splitlines()]
    need(events[-1]["lifecycle"].get("code") == 9, f"the detached session did not outlive the upgrade: {events[-1]}")
    need([event["seq"] for event in events] == list(range(1, len(events) + 1)), "an event is missing")
    need(any(event.get("exec", {}).get("path") == "/usr/bin/env" for event in events), "what ran after the upgrade is not on record")
    logs = run.alice("agentctl logs kept").out.split()
    need(logs == ["before", "after"], f"its output: {logs}")
    after = vm.sh("dpkg-query -W -f '${Version}' agentd")
    need(before != after, f"{after} is what there was before")
    return f"{before} to {after}"
