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


@check
def scores(run):
    """`systemd-analyze security`: at most 1.5 for the service; the launcher's is told."""
    told = []
    for unit in ("agentd.service", "agentd-launcher.service"):
        said = run.vm.sh(f"systemd-analyze security --no-pager {unit}")
        told.append(float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1]))
    need(told[0] <= 1.5, f"agentd.service: {told[0]}")
    run.vm.sh("systemd-analyze verify --man=no /lib/systemd/system/agentd.service /lib/systemd/system/agentd-launcher.service")
    return f"service {told[0]}, launcher {told[1]}"


@check
def journal(run):
    """Both units speak there, and nothing of it is an error."""
    lines = [json.loads(line) for line in run.vm.sh("journalctl -b -o json -u agentd -u agentd-launcher").splitlines()]
    need(any(line.get("_SYSTEMD_UNIT") == "agentd.service" for line in lines), "the service says nothing")
    bad = [line["MESSAGE"] for line in lines if int(line.get("PRIORITY", 6)) <= 3 or " ERROR " in str(line.get("MESSAGE"))]
    need(not bad, "\n".join(map(str, bad)))
    return f"{len(lines)} lines"


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


@check
def stop_and_start(run):
    """Both units stopped: nobody is answered, sessions go on; started: they are there again."""
    vm = run.vm
    job = run.session(WAITS, mark="up", where="p/stop:direct")
    vm.sh("systemctl stop agentd agentd-launcher", 120)
    need(vm.run("agentctl ps").code == 5, "somebody answers")
    vm.sh("systemctl start agentd; systemctl is-active agentd agentd-launcher")
    vm.sh("su -l alice -c 'touch p/stop/go'")
    result = job.wait()
    need(result.code == 7, f"the session did not go on: {result!r}")


@check
def watchdog(run):
    """systemd sees a launcher or service that hangs, if the units ask for it."""
    told = [run.vm.sh(f"systemctl show -P WatchdogUSec {unit}").strip() for unit in ("agentd", "agentd-launcher")]
    for unit in ("agentd", "agentd-launcher"):
        if run.vm.sh(f"systemctl show -P WatchdogUSec {unit}").strip() not in ("0", "infinity"):
            pid = run.vm.sh(f"systemctl show -P MainPID {unit}").strip()
            run.vm.sh(f"kill -STOP {pid}")
            run.vm.wait_until(f"p=$(systemctl show -P MainPID {unit}); [ $p != {pid} ] && [ $p != 0 ] && agentctl version", 180)
    return " ".join(told)


def nothing_is_left(run):
    """After a start without sessions: no process, group, mount or state of one; a new session runs."""
    vm = run.vm
    vm.wait_until("systemctl is-active agentd agentd-launcher && agentctl version", 90)
    running = run.vm.sh("agentctl ps --json")
    need(not running.strip(), f"sessions that cannot be: {running}")
    left = vm.run("ps -eo comm= | grep -xE 'agentd-(keeper|relay|init|builder|meter)'; findmnt -rn | grep /agentd; "
                  "find /sys/fs/cgroup -path '*agentd*' -name cgroup.procs -exec sh -c 'grep -l . \"$@\"' - {} + | grep -vE 'agentd(-launcher)?.service'").out
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
    need(not lost, f"{len(lost)} of {len(shown)} events that were shown are lost, the first {lost[0]}")
    need(not other, f"other events under the same number: {other[:3]}")
    for session in {key[0] for key in kept}:
        numbers = sorted(key[1] for key in kept if key[0] == session)
        need(numbers == list(range(1, len(numbers) + 1)), f"{session}: the numbers have gaps")
    return f"{len(shown)} events, boot {took:.0f} s"
