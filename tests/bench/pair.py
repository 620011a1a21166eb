#!/usr/bin/python3
"""Starts of two builds in turns: `make bench-pair BASE=DIR`, where DIR has the programs to compare with, as `cargo build
--release` leaves them. Each has a daemon of its own with its runtime directory on a tmpfs, as on a host with systemd.

ROUNDS (300) starts of each in turns, once without a pause and once with 30 ms before each, so that nothing of the one
before is still going on; then BLOCKS (8) of 25 starts for processor time, context switches and forks. bubblewrap runs in
the same turns, as a measure of the machine. Run by root."""

import json
import os
import pwd
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = int(os.environ.get("ROUNDS", "300"))
BLOCKS = int(os.environ.get("BLOCKS", "8"))
OF_A_BLOCK = 25
PAUSES = (0.0, 0.03)
PROGRAMS = ["agentd", "agentd-launcher", "agentd-relay", "agentctl"]
FIRST_UID, UIDS = 1901000000, 45000
COMMENT = "made by agentd's bench-pair"
LINKS = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"]


class Daemon:
    """One build, running."""

    def __init__(self, number, name, programs, user):
        self.dir = tempfile.mkdtemp(prefix=f"agentd-pair-{name}.", dir="/var/lib")
        os.chmod(self.dir, 0o755)
        for part in ("bin", "secrets", "run"):
            os.mkdir(f"{self.dir}/{part}")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{self.dir}/run"], check=True)
        for program in PROGRAMS:
            shutil.copy(f"{programs}/{program}", f"{self.dir}/bin/{program}")
        first = FIRST_UID + number * UIDS
        with open(f"{self.dir}/agentd.toml", "w", encoding="utf-8") as file:
            file.write(f"""socket = "{self.dir}/run/agentd.sock"
runtime_dir = "{self.dir}/run"
state_dir = "{self.dir}/state"
profile_dirs = []
secrets_dir = "{self.dir}/secrets"
service_user = "{user}-svc"
socket_group = "{user}"
admin_group = "root"
[pool]
uids = "{first}-{first + UIDS - 1}"
[bounds]
user_requests = 100000
""")
        with open(f"{self.dir}/log", "w", encoding="utf-8") as log:
            command = [f"{self.dir}/bin/agentd", "--config", f"{self.dir}/agentd.toml"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.environment = {"AGENTD_SOCKET": f"{self.dir}/run/agentd.sock"}
        self.argv = [f"{self.dir}/bin/agentctl", "run", "--rm", "--", "/bin/true"]

    def wait(self):
        for _ in range(100):
            asked = subprocess.run([f"{self.dir}/bin/agentctl", "version"], capture_output=True,
                                   env={**os.environ, **self.environment}, check=False)
            if asked.returncode == 0:
                return
            time.sleep(0.1)
        sys.exit(f"bench: the daemon does not answer: {self.dir}/log")

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        subprocess.run(["umount", f"{self.dir}/run"], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


def accounts(name):
    """The user who asks, and the service's account; whether they are ours to take away again."""
    for account, more in ((name, ["--create-home", "--shell", "/bin/bash"]), (f"{name}-svc", ["--no-create-home"])):
        try:
            if pwd.getpwnam(account).pw_gecos != COMMENT:
                sys.exit(f"bench: there is an account {account} that is not ours")
        except KeyError:
            command = ["useradd", "--system", "--user-group", "--comment", COMMENT, *more, account]
            subprocess.run(command, check=True)
    return pwd.getpwnam(name)


def bubblewrap(home, work):
    argv = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
            "--ro-bind", "/usr", "/usr", "--ro-bind", "/opt", "/opt"]
    for link in LINKS:
        if os.path.islink("/" + link):
            argv += ["--symlink", os.readlink("/" + link), "/" + link]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", home]
    return argv + ["--bind", work, work, "--chdir", work, "--", "/bin/true"]


class Runner:
    """A process of the user's that starts programs and says how long they took."""

    def __init__(self, user, work):
        asked, self.ask = os.pipe()
        answers, self.answer = os.pipe()
        if os.fork() == 0:
            os.close(self.ask)
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            os.chdir(work)
            null = os.open("/dev/null", os.O_RDWR)
            actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1)]
            with os.fdopen(asked) as lines:
                for line in lines:
                    argv, environment = json.loads(line)
                    environment = {**os.environ, "HOME": user.pw_dir, **environment}
                    began = time.perf_counter_ns()
                    pid = os.posix_spawnp(argv[0], argv, environment, file_actions=actions)
                    _, status = os.waitpid(pid, 0)
                    took = time.perf_counter_ns() - began
                    os.write(self.answer, f"{took} {os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
        os.close(asked)
        os.close(self.answer)
        self.answers = os.fdopen(answers)

    def run(self, argv, environment):
        """Milliseconds."""
        os.write(self.ask, (json.dumps([argv, environment]) + "\n").encode())
        took, code = map(int, self.answers.readline().split())
        if code != 0:
            sys.exit(f"bench: {' '.join(argv)} ended with {code}")
        return took / 1e6


def counters():
    """Milliseconds of all processors, context switches, forks: of the whole machine, which should do nothing else."""
    with open("/proc/stat", encoding="utf-8") as file:
        lines = {line.split()[0]: line.split()[1:] for line in file}
    ticks = list(map(int, lines["cpu"]))
    busy = (sum(ticks[:8]) - ticks[3] - ticks[4]) * 1000 / os.sysconf("SC_CLK_TCK")
    return busy, int(lines["ctxt"][0]), int(lines["processes"][0])


def times(runner, contenders):
    names = list(contenders)
    for pause in PAUSES:
        took = {name: [] for name in names}
        for _ in range(ROUNDS):
            # What ran before still cleans up while the next one starts: each follows each equally often.
            for name in random.sample(names, len(names)):
                time.sleep(pause)
                took[name].append(runner.run(*contenders[name]))
        print(f"\n{ROUNDS} starts of each in turns, {pause * 1000:.0f} ms before each (ms)")
        print(f"{'':10} {'least':>7} {'median':>7} {'p90':>7}  {'of base: medians':>17} {'pairs':>6}")
        base = took["base"]
        for name, all_ in took.items():
            ordered = sorted(all_)
            pairs = statistics.median(one / other for one, other in zip(all_, base))
            medians = statistics.median(all_) / statistics.median(base)
            print(f"{name:10} {ordered[0]:7.2f} {statistics.median(all_):7.2f} {ordered[len(ordered) * 9 // 10]:7.2f}"
                  f"  {medians:17.3f} {pairs:6.3f}", flush=True)


def costs(runner, contenders):
    found = {name: [] for name in contenders}
    for _ in range(BLOCKS):
        for name, command in contenders.items():
            time.sleep(0.5)
            before = counters()
            for _ in range(OF_A_BLOCK):
                runner.run(*command)
            time.sleep(0.5)
            found[name].append([(now - then) / OF_A_BLOCK for now, then in zip(counters(), before)])
    print(f"\nOf a start, medians of {BLOCKS} times {OF_A_BLOCK}, with what follows it")
    print(f"{'':10} {'CPU ms':>7} {'switches':>9} {'forks':>6}")
    for name, all_ in found.items():
        cpu, switches, forks = map(statistics.median, zip(*all_))
        print(f"{name:10} {cpu:7.1f} {switches:9.0f} {forks:6.1f}", flush=True)


def main():
    if len(sys.argv) != 3 or os.geteuid() != 0:
        sys.exit("usage, as root: pair.py BASE-PROGRAMS PROGRAMS")
    name = "agentd-pair"
    user = accounts(name)
    work = f"{user.pw_dir}/bench"
    os.makedirs(work, exist_ok=True)
    os.chown(work, user.pw_uid, user.pw_gid)
    daemons = []
    try:
        contenders = {}
        for number, (what, programs) in enumerate(zip(("base", "this"), sys.argv[1:])):
            daemons.append(Daemon(number, what, programs, name))
            daemons[-1].wait()
            contenders[what] = (daemons[-1].argv, daemons[-1].environment)
        contenders["bubblewrap"] = (bubblewrap(user.pw_dir, work), {})
        runner = Runner(user, work)
        for command in contenders.values():
            for _ in range(5):
                runner.run(*command)
        times(runner, contenders)
        costs(runner, contenders)
    finally:
        for daemon in daemons:
            daemon.end()
        for account in (name, f"{name}-svc"):
            subprocess.run(["userdel", "--remove", account], stderr=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    main()
