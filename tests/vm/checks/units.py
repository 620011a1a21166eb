"""systemd: restart, stop, logs, hardening, reboot, power cut."""

import json
import re
import time

from . import check, need

WAITS = "echo up; while [ ! -e go ]; do sleep 0.2; done; exit 7"


def outlives(run, act, name):
    """A session that runs goes on over `act`, and its exit code arrives."""
    vm = run.vm
    job = run.session(WAITS, mark="up", where=f"p/{name}:direct")
    vm.sh(act, 120)
    vm.wait_until("systemctl is-active agentd agentd-launcher && agentctl version", 60)
    vm.sh(f"su -l alice -c 'touch p/{name}/go'")
    result = job.wait()
    need(result.code == 7, f"the session did not go on: {result!r}")
    need(run.alice("agentctl run -- true").code == 0, "no new session")


UNITS = ("agentd.service", "agentd-launcher.service")
SOCKETS = ("agentd.socket", "agentd-offer.socket")
SCOPE = "agentd-sessions.scope"


@check
def scores(run):
    """`systemd-analyze security`: at most 1.5 for the service; every point of the launcher's is in its unit."""
    vm = run.vm
    results = []
    for unit in UNITS:
        said = vm.sh(f"systemd-analyze security --no-pager {unit}")
        results.append(float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1]))
    need(results[0] <= 1.5, f"agentd.service: {results[0]}")
    unit = vm.sh("cat /lib/systemd/system/agentd-launcher.service")
    points = json.loads(vm.sh("systemd-analyze security --no-pager --json=short agentd-launcher.service"))
    lacking = {point["name"].split("=")[0] for point in points if point["set"] is False and point["exposure"]}
    comments = "\n".join(line for line in unit.splitlines() if line.startswith("#"))
    lacking = {name for name in lacking if f"{name}=" not in unit}
    kept = {name for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=") for name in re.findall(r"CAP_\w+", line)}
    lacking |= {name for name in kept if not re.search(rf"{name}\b", comments)}
    need(not lacking, f"points that the launcher's unit does not explain: {sorted(lacking)}")
    vm.sh("systemd-analyze verify --man=no " + " ".join(f"/lib/systemd/system/{unit}" for unit in (*UNITS, *SOCKETS)))
    return f"service {results[0]}, launcher {results[1]}"


def scope(vm):
    """The cgroup of all sessions, below the mount."""
    return "/sys/fs/cgroup" + vm.sh(f"systemctl show -P ControlGroup {SCOPE}").strip()


@check
def scope_of_sessions(run):
    """All of a session is in the transient scope, below the slice, and what is set on the slice holds for it."""
    vm = run.vm
    job = run.session(WAITS, mark="up", where="p/scope:direct")
    group = scope(vm)
    need(group == "/sys/fs/cgroup/agentd.slice/agentd-sessions.scope", group)
    need(vm.sh(f"systemctl show -P Delegate {SCOPE}").strip() == "yes", "it is not delegated")
    for name in ("agentd-keeper", "agentd-relay", "agentd-init", "bash"):
        pids = vm.sh(f"find {group} -name cgroup.procs -exec cat {{}} + | while read p; do cat /proc/$p/comm 2>/dev/null || true; done")
        need(name in pids.split(), f"no {name} in the scope: {pids.split()}")
    vm.sh("systemctl set-property --runtime agentd.slice TasksMax=4321")
    need(vm.sh("cat /sys/fs/cgroup/agentd.slice/pids.max").strip() == "4321", "the slice's limit is not set")
    vm.sh("systemctl set-property --runtime agentd.slice TasksMax=; systemctl daemon-reload")
    vm.sh("su -l alice -c 'touch p/scope/go'")
    need(job.wait().code == 7, "a reload of systemd ended the session")


@check
def stopped_scope(run):
    """`systemctl stop` of the scope ends every session; the launcher makes another scope by itself."""
    vm = run.vm
    job = run.session("trap '' TERM HUP; echo up; while :; do sleep 0.2; done", mark="up")
    began = time.monotonic()
    vm.sh(f"systemctl stop {SCOPE}", 60)
    took = time.monotonic() - began
    need(job.wait().code != 0, "the session goes on")
    vm.wait_until(f"systemctl is-active {SCOPE} agentd-launcher agentd && agentctl version", 60)
    vm.wait_until("su -l alice -c 'cd p && agentctl run -- true'", 30)
    return f"{took:.0f} s"


@check
def journal(run):
    """Both units speak there, nothing of it is an error, and what is about a session can be asked for by its id."""
    vm = run.vm
    need(run.alice("agentctl run --name journalled -- true").code == 0, "run")
    rows = map(json.loads, run.alice("agentctl ps -a --json").out.splitlines())
    session = next(row["id"] for row in rows if row["name"] == "journalled")
    lines = [json.loads(line) for line in vm.sh("journalctl -b -o json -u agentd -u agentd-launcher").splitlines()]
    need(any(line.get("_SYSTEMD_UNIT") == "agentd.service" for line in lines), "the service logs nothing")
    bad = [line["MESSAGE"] for line in lines if int(line.get("PRIORITY", 6)) <= 3]
    need(not bad, "\n".join(map(str, bad)))
    about = [json.loads(line) for line in vm.sh(f"journalctl -b -o json AGENTD_SESSION={session}").splitlines()]
    need(about, f"nothing about the session {session}")
    odd = [line["MESSAGE"] for line in lines if re.search(r"\x1b", str(line.get("MESSAGE")))]
    need(not odd, f"colours or worse in the journal: {odd[:3]}")
    return f"{len(lines)} lines, {len(about)} of one session"


@check
def metrics(run):
    """On a socket of their own, in Prometheus' text, for admins alone."""
    vm = run.vm
    ask = "curl -sS --fail --unix-socket /run/agentd/metrics.sock http://localhost/metrics"
    need(vm.sh("stat -c '%a %U %G' /run/agentd/metrics.sock").strip() == "660 root agentd-admin", vm.sh("ls -l /run/agentd"))
    job = run.session("echo up; sleep 300", mark="up", name="measured")
    said = vm.sh(ask)
    need(re.search(r'^agentd_sessions\{state="running"\} [1-9]', said, re.M), said)
    need(vm.user("alice", ask).code != 0, "a user reads the metrics")
    vm.sh("agentctl kill measured")
    job.wait()
    return f"{len(re.findall('^# TYPE', said, re.M))} metrics"


@check
def restart_of_the_service(run):
    outlives(run, "systemctl restart agentd", "r1")


@check
def restart_of_the_launcher(run):
    outlives(run, "systemctl restart agentd-launcher", "r2")


@check
def restart_of_both(run):
    outlives(run, "systemctl restart agentd-launcher agentd", "r3")


@check
def killed_service(run):
    outlives(run, "systemctl kill -s KILL agentd; sleep 1", "r4")


@check
def killed_launcher(run):
    outlives(run, "systemctl kill -s KILL --kill-whom=main agentd-launcher; sleep 1", "r5")


CONFIG = "/etc/agentd/agentd.toml"


def configured(vm, key, value):
    vm.sh(f"sed -i 's|^#* *{key} *=.*|{key} = {value}|' {CONFIG}; grep -qxF '{key} = {value}' {CONFIG}")


@check
def reload(run):
    """`systemctl reload`: a bound takes effect, a bad file and a key that needs a restart are refused, and the old file
    stays in force; sessions go on."""
    vm = run.vm
    pids = "systemctl show -P MainPID agentd agentd-launcher"
    before = vm.sh(pids)
    job = run.session(WAITS, mark="up", where="p/reload:direct")
    vm.sh(f"cp {CONFIG} /root/agentd.toml")
    configured(vm, "max_sessions_per_user", "1")
    vm.sh("systemctl reload agentd")
    result = vm.wait_until("! su -l alice -c 'cd p && agentctl run -- true' 2>&1")
    need("refused: " in result, result)
    vm.sh("cp /root/agentd.toml /root/good.toml; echo 'nonsense = [' >> " + CONFIG)
    result = vm.run("systemctl reload agentd 2>&1; journalctl -b -u agentd -n 20 -o cat")
    need("nonsense" in result.out or "agentd.toml" in result.out, repr(result))
    need(vm.run("su -l alice -c 'cd p && agentctl run -- true'").code == 125, "a bad file has changed something")
    vm.sh(f"cp /root/agentd.toml {CONFIG}; systemctl reload agentd")
    vm.wait_until("su -l alice -c 'cd p && agentctl run -- true'")
    configured(vm, "state_dir", '"/var/lib/elsewhere"')
    vm.run("systemctl reload agentd")
    vm.wait_until("journalctl -b -u agentd -u agentd-launcher -o cat | grep -q state_dir")
    need(vm.run("ls -d /var/lib/elsewhere").code != 0, "a directory was changed by a reload")
    vm.sh(f"cp /root/agentd.toml {CONFIG}; systemctl reload agentd; chmod 644 {CONFIG}")
    need(vm.sh(pids) == before, "a reload restarted something")
    vm.sh("su -l alice -c 'touch p/reload/go'")
    need(job.wait().code == 7, "a reload ended the session")


@check
def stop_and_start(run):
    """Everything stopped: nobody is answered, sessions go on; started: they are there again."""
    vm = run.vm
    job = run.session(WAITS, mark="up", where="p/stop:direct")
    vm.sh(f"systemctl stop {' '.join((*SOCKETS, *UNITS))}", 120)
    need(vm.run("agentctl ps").code == 5, "somebody answers")
    vm.sh("systemctl start agentd; systemctl is-active agentd agentd-launcher agentd.socket agentd-offer.socket")
    vm.sh("su -l alice -c 'touch p/stop/go'")
    result = job.wait()
    need(result.code == 7, f"the session did not go on: {result!r}")


@check
def activation(run):
    """Both services stopped, the sockets not: who connects waits and is served."""
    vm = run.vm
    vm.sh(f"systemctl stop {' '.join(UNITS)}", 120)
    vm.sh("! systemctl is-active --quiet agentd-launcher; ! systemctl is-active --quiet agentd; systemctl is-active agentd.socket")
    result = run.alice("agentctl run -- sh -c 'echo served'")
    need(result.code == 0 and "served" in result.out, repr(result))
    vm.sh("systemctl is-active agentd agentd-launcher")


@check
def watchdog(run):
    """systemd sees a launcher or a service that hangs and starts another; a session that runs goes on."""
    vm = run.vm
    results = []
    for unit in ("agentd", "agentd-launcher"):
        results.append(vm.sh(f"systemctl show -P WatchdogUSec {unit}").strip())
        need(results[-1] not in ("0", "infinity"), f"{unit} has no watchdog")
        job = run.session(WAITS, mark="up", where=f"p/dog-{unit}:direct")
        pid = vm.sh(f"systemctl show -P MainPID {unit}").strip()
        vm.sh(f"kill -STOP {pid}")
        vm.wait_until(f"p=$(systemctl show -P MainPID {unit}); [ $p != {pid} ] && [ $p != 0 ] && agentctl version", 180)
        vm.sh(f"su -l alice -c 'touch p/dog-{unit}/go'")
        result = job.wait()
        need(result.code == 7, f"{unit}: the session did not go on: {result!r}")
    return " ".join(results)


@check
def systemd_executed_anew(run):
    """As an upgrade of systemd itself does it: nobody notices."""
    outlives(run, "systemctl daemon-reexec; systemctl daemon-reload", "r6")


def nothing_is_left(run):
    """After a start without sessions: no process, group, mount or state of one; a new session runs."""
    vm = run.vm
    vm.wait_until("systemctl is-active agentd agentd-launcher && agentctl version", 90)
    running = run.vm.sh("agentctl ps --json")
    need(not running.strip(), f"sessions that cannot be: {running}")
    left = vm.run("ps -eo comm= | grep -xE 'agentd-(keeper|relay|init|builder|meter)'; findmnt -rn | grep /agentd; "
                  "find /sys/fs/cgroup -path '*agentd*' -name cgroup.procs -exec sh -c 'grep -l . \"$@\"' - {} + | grep -vE 'agentd(-launcher)?.service|scope/hold/'").out
    need(not left.strip(), f"left: {left}")
    result = run.alice("agentctl run -- sh -c 'touch f; echo fine'")
    need(result.code == 0 and "fine" in result.out, repr(result))


@check
def reboot_with_sessions(run):
    """Sessions do not hold the shutdown up, are on record as ended, and leave nothing."""
    vm = run.vm
    run.session("echo up; sleep 600", mark="up", name="rebooted")
    run.session("trap '' TERM HUP INT; echo up; while :; do sleep 1; done", mark="up", name="stubborn")
    took = vm.reboot()
    vm.run("journalctl -b -1 -o short-monotonic --no-pager | tail -n 150")
    nothing_is_left(run)
    said = run.alice("agentctl events rebooted --json").out
    need('"session.created"' in said, f"the events of a session before the reboot are gone: {said}")
    need(took < 100, f"the reboot took {took:.0f} s")
    return f"{took:.0f} s"


@check
def power_cut(run):
    """In the middle of sessions and events: every event that a follower was shown is there afterwards, files are
    whole, and the daemon starts by itself and has cleaned up."""
    vm = run.vm
    follower = vm.begin("exec agentctl events -f --json", 600)
    busy = [run.session("while :; do /bin/true; /bin/echo . >/dev/null; done", name=f"busy{n}") for n in range(3)]
    need(busy, "no sessions")
    end = time.monotonic() + 12
    while time.monotonic() < end:
        vm.take(end + 30)
    vm.pull_the_plug()
    lines = follower.out.split("\n")[:-1]  # The last one may be cut.
    shown = {(event["session"], event["seq"]): event for event in map(json.loads, filter(None, lines))}
    need(len(shown) > 50, f"only {len(shown)} events before the cut")
    took = vm.start()
    nothing_is_left(run)
    kept = {}
    for line in vm.sh("cat /var/lib/agentd/audit/*.jsonl 2>/dev/null || true").splitlines():
        try:
            event = json.loads(line)
            kept[event["session"], event["seq"]] = event
        except (ValueError, KeyError, TypeError):
            pass  # A torn last line, or a record of another kind.
    for line in vm.sh("agentctl events --json").splitlines():
        event = json.loads(line)
        kept[event["session"], event["seq"]] = event
    lost = sorted(key for key in shown if key not in kept)
    other = [key for key in shown if key in kept and kept[key].get("kind") != shown[key].get("kind")]
    need(not lost, f"{len(lost)} of {len(shown)} events that were shown are lost, the first {lost[:1]}")
    need(not other, f"other events under the same number: {other[:3]}")
    for session in {key[0] for key in kept}:
        numbers = sorted(key[1] for key in kept if key[0] == session)
        need(numbers == list(range(1, len(numbers) + 1)), f"{session}: the numbers have gaps")
    return f"{len(shown)} events, boot {took:.0f} s"
