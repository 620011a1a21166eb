#!/usr/bin/python3
"""Starts of one user beside loops of another that connect and close as fast as they can: `agentctl run -- true`, and
bubblewrap beside the same loops, in turns.

Run it through private-daemon: `make bench-crowd`. RUNS is the number of starts of each (default 40), LOOPS that of
loops (default 8). Three times: with no loops, with loops, and with loops that have 0.2 CPUs together. Fails if a start
fails. The aims: beside the loops the median of agentctl grows by no more than twice what bubblewrap's does, and beside
loops of 0.2 CPUs it at most doubles."""

import os
import pwd
import signal
import socket
import statistics
import subprocess
import sys
import time

RUNS = int(os.environ.get("RUNS", "40"))
LOOPS = int(os.environ.get("LOOPS", "8"))
BIN = os.environ["BIN"]
DIR = os.environ["DEMO_DIR"]
USER = pwd.getpwnam(os.environ["DEMO_USER"])
WORK = f"{USER.pw_dir}/crowd"
# Whom nobody is, in the group that may connect.
OTHER = 1901999999
LINKS = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"]


def bwrap():
    argv = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    argv += ["--ro-bind", "/usr", "/usr", "--ro-bind", "/opt", "/opt"]
    for link in LINKS:
        if os.path.islink("/" + link):
            argv += ["--symlink", os.readlink("/" + link), "/" + link]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", USER.pw_dir]
    return argv + ["--bind", WORK, WORK, "--chdir", WORK, "--", "/bin/true"]


CONTENDERS = {"bwrap": bwrap(), "agentctl": [f"{BIN}/agentctl", "run", "--rm", "--", "/bin/true"]}


def become(uid, gid):
    os.setgroups([USER.pw_gid])
    os.setgid(gid)
    os.setuid(uid)


def flood(number):
    name, kind = [("agentd.sock", socket.SOCK_STREAM), ("offer.sock", socket.SOCK_SEQPACKET)][number % 4 == 3]
    path = f"{DIR}/run/{name}"
    while True:
        try:
            client = socket.socket(socket.AF_UNIX, kind)
            client.setblocking(False)
            client.connect(path)
            if number % 4 == 3:
                client.send(b"x")
            client.close()
        except OSError:
            pass


class Loops:
    """Processes of another user; with a limit, in a cgroup of their own."""

    def __init__(self, cpus):
        self.group = self.make_group(cpus) if cpus else None
        self.pids = []
        for number in range(LOOPS):
            pid = os.fork()
            if pid == 0:
                if self.group:
                    with open(f"{self.group}/cgroup.procs", "w", encoding="ascii") as file:
                        file.write(str(os.getpid()))
                become(OTHER, USER.pw_gid)
                flood(number)
            self.pids.append(pid)
        time.sleep(0.5)

    @staticmethod
    def make_group(cpus):
        unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        group = f"/sys/fs/cgroup/{'' if unified else 'cpu/'}agentd-crowd-{os.getpid()}"
        os.makedirs(group, exist_ok=True)
        files = {"cpu.max": f"{int(cpus * 100000)} 100000"} if unified else {
            "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": str(int(cpus * 100000))}
        for name, text in files.items():
            with open(f"{group}/{name}", "w", encoding="ascii") as file:
                file.write(text)
        return group

    def end(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        if self.group:
            os.rmdir(self.group)


def start(argv):
    begun = time.monotonic()
    done = subprocess.run(argv, cwd=WORK, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False,
                          stderr=subprocess.PIPE, preexec_fn=lambda: become(USER.pw_uid, USER.pw_gid),
                          env={"PATH": "/usr/bin:/bin", "HOME": USER.pw_dir,
                               "AGENTD_SOCKET": os.environ["AGENTD_SOCKET"]})
    return (time.monotonic() - begun) * 1000, done


def measure(what):
    times, failed = {name: [] for name in CONTENDERS}, []
    for turn in range(RUNS + 3):
        for name, argv in CONTENDERS.items():
            took, done = start(argv)
            if done.returncode != 0:
                failed.append(f"{what}: {name}: {done.stderr.decode(errors='replace').strip()}")
            elif turn >= 3:
                times[name].append(took)
    medians = {}
    for name, all_of_it in times.items():
        all_of_it.sort()
        medians[name] = statistics.median(all_of_it) if all_of_it else float("nan")
        last = all_of_it[int(len(all_of_it) * 0.95)] if all_of_it else float("nan")
        print(f"{what:28} {name:10} median {medians[name]:8.1f} ms   95% {last:8.1f} ms   of {len(all_of_it)}")
    return medians, failed


def main():
    os.makedirs(WORK, exist_ok=True)
    os.chown(WORK, USER.pw_uid, USER.pw_gid)
    alone, failed = measure("alone")
    results = {}
    for what, cpus in [(f"beside {LOOPS} loops", None), (f"beside {LOOPS} loops of 0.2 CPU", 0.2)]:
        loops = Loops(cpus)
        try:
            results[what], more = measure(what)
        finally:
            loops.end()
        failed += more
    for what, medians in results.items():
        grown = {name: medians[name] / alone[name] for name in medians}
        print(f"{what}: agentctl {grown['agentctl']:.2f} times as long, bubblewrap {grown['bwrap']:.2f} times")
    print(f"failed starts: {len(failed)}", *failed[:10], sep="\n  ")
    print(f"log: {os.path.getsize(f'{DIR}/log')} bytes")
    sys.exit(1 if failed else 0)


main()
