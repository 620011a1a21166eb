#!/usr/bin/python3
"""Sessions without a pause, of every kind of end, several at a time: afterwards nothing may be left, and launcher
and service may not have grown.

Run it through private-daemon: `make soak`. MINUTES (default 10) is how long, JOBS (default 8) how many at a time."""

import collections
import glob
import os
import pwd
import random
import signal
import subprocess
import sys
import threading
import time

MINUTES = float(os.environ.get("MINUTES", "10"))
JOBS = int(os.environ.get("JOBS", "8"))
BIN = os.environ["BIN"]
USER = pwd.getpwnam(os.environ["DEMO_USER"])
DIR = os.environ["DEMO_DIR"]
DAEMON = int(os.environ["DAEMON"])
WORK = f"{USER.pw_dir}/soak"
# As private-daemon's agentd.toml has it.
POOL = range(1901000000, 1901004500)
# How long what was left may take to go, and what a daemon may grow by after a quarter of the time, in which its caches
# and its allocator have filled.
SETTLE = 5.0
GROWTH = 8 << 20

# Kind: flags, command, the exit codes that are right. None: the client is killed after a moment.
KINDS = {
    "true": ([], ["true"], {0}),
    "code": ([], ["sh", "-c", "exit 7"], {7}),
    "output": ([], ["head", "-c", "4000000", "/dev/zero"], {0}),
    "denied": ([], ["bash", "-c", "! exec 3<>/dev/tcp/192.0.2.1/80"], {0}),
    "overlay": ([], ["sh", "-c", "for i in $(seq 50); do echo $i > f$i; done"], {0}),
    "direct": (["--workspace", f"{WORK}:direct"], ["sh", "-c", "f=$(mktemp -p .); rm $f"], {0}),
    "forks": (["--pids", "32"], ["bash", "-c", "for i in $(seq 20); do sleep 100 & done; true"], {0}),
    "timeout": (["--timeout", "1s"], ["sleep", "100"], {124}),
    "memory": (["--memory", "64M"], ["/usr/bin/python3", "-c", "bytearray(1 << 30)"], {1, 137}),
    "absent": ([], ["/nonexistent"], {127}),
    "idle": (["--idle", "500ms"], ["sleep", "100"], {124}),
    "abandoned": ([], ["sleep", "100"], None),
}


class State:
    """What the host holds of the daemon."""

    def __init__(self):
        service = [int(pid) for path in glob.glob(f"/proc/{DAEMON}/task/*/children")
                   for pid in open(path, encoding="utf-8").read().split()
                   if open(f"/proc/{pid}/comm", encoding="utf-8").read() == "agentd\n"]
        self.pids = {"launcher": DAEMON, "service": service[0]}
        self.leased = [pid for pid in os.listdir("/proc") if pid.isdigit() and uid_of(pid) in POOL]
        self.mounts = sum(1 for _ in open("/proc/self/mountinfo", encoding="utf-8"))
        self.cgroups = sorted(path for root in glob.glob(f"/sys/fs/cgroup/**/agentd-*/*/u{USER.pw_uid}", recursive=True)
                              for path, below, _ in os.walk(root) if not below and is_session(path))
        self.overlays = glob.glob(f"{DIR}/state/overlays/*/*")
        self.files = {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in self.pids.items()}
        self.memory = {name: resident(pid) for name, pid in self.pids.items()}


def uid_of(pid):
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def is_session(path):
    name = os.path.basename(path)
    return len(name) == 12 and all(c in "0123456789abcdef" for c in name)


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS:"))


def run(kind, wrong):
    flags, command, right = KINDS[kind]
    argv = [f"{BIN}/agentctl", "run", "--rm", *flags, "--", *command]
    client = subprocess.Popen(argv, cwd=WORK, user=USER.pw_uid, group=USER.pw_gid, extra_groups=[],
                              env={**os.environ, "HOME": USER.pw_dir}, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if right is None:
        time.sleep(random.uniform(0, 0.3))
        client.send_signal(random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP]))
    try:
        _, errors = client.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        client.kill()
        _, errors = client.communicate()
        wrong.append(f"{kind}: hangs")
    if right is not None and client.returncode not in right:
        wrong.append(f"{kind}: ended with {client.returncode}: {errors.decode(errors='replace').strip()[-200:]}")


def work(end, done, wrong):
    while time.monotonic() < end and len(wrong) < 100:
        kind = random.choice(list(KINDS))
        run(kind, wrong)
        done[kind] += 1


def leaks(before):
    """What is there and was not; empty if nothing."""
    now = State()
    found = [f"{name}: {was} before, {is_} now" for name, was, is_ in [
        ("mounts", before.mounts, now.mounts),
        ("launcher's descriptors", before.files["launcher"], now.files["launcher"]),
        ("service's descriptors", before.files["service"], now.files["service"]),
    ] if is_ > was]
    # Sessions that are prewarmed for the next users have leases already: as many as before.
    found += [f"{len(now.leased)} processes of leased uids, {len(before.leased)} before: {now.leased}"
              ] if len(now.leased) > len(before.leased) else []
    found += [f"cgroup {path}" for path in now.cgroups]
    found += [f"overlay {path}" for path in now.overlays]
    found += [f"{name} grew from {before.memory[name] >> 10} to {size >> 10} KiB"
              for name, size in now.memory.items() if size > before.memory[name] + GROWTH]
    return found, now


def main():
    os.makedirs(WORK, exist_ok=True)
    os.chown(WORK, USER.pw_uid, USER.pw_gid)
    wrong = []
    for kind in KINDS:
        run(kind, wrong)
    time.sleep(2)
    before = State()
    done = collections.Counter()
    end = time.monotonic() + MINUTES * 60
    workers = [threading.Thread(target=work, args=(end, done, wrong)) for _ in range(JOBS)]
    for worker in workers:
        worker.start()
    time.sleep(MINUTES * 60 / 4)
    fresh, before.memory = before.memory, {name: resident(pid) for name, pid in before.pids.items()}
    for worker in workers:
        worker.join()
    settled = time.monotonic()
    while True:
        found, now = leaks(before)
        if not found or time.monotonic() > settled + SETTLE:
            break
        time.sleep(0.1)
    print(f"{sum(done.values())} sessions in {MINUTES:g} minutes, {JOBS} at a time: "
          + ", ".join(f"{count} {kind}" for kind, count in sorted(done.items())))
    for name in now.pids:
        print(f"{name}: {fresh[name] >> 10} -> {before.memory[name] >> 10} -> {now.memory[name] >> 10} KiB, "
              f"{before.files[name]} -> {now.files[name]} descriptors")
    for line in wrong[:20] + found[:20]:
        print("wrong: " + line)
    print(f"{len(wrong)} ended wrongly, {len(found)} leaks, settled in {time.monotonic() - settled:.1f} s")
    sys.exit(1 if wrong or found else 0)


if __name__ == "__main__":
    main()
