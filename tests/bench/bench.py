#!/usr/bin/python3
"""`agentctl run -- /bin/true` beside bubblewrap, crun and runc, from the start of the program to its end.

Run it through private-daemon: `make bench`. RUNS is the number of tries of each (default 50), STARTS that of starts
with 128 at a time (default 512; 0 for none), INSTANCES the number of idle sessions whose memory is looked at (default
100; 0 for none). The programs take turns, so that a slow moment of the machine falls on all. agentctl and bubblewrap run as an unprivileged user;
crun and runc as root, which they need for namespaces of this kind. What each of them does is in CONTENDERS and
`bundle`; agentd does more: id-mapped mounts, Landlock, an nftables table, exec events and an audit log."""

import ctypes
import json
import os
import platform
import pwd
import statistics
import subprocess
import sys
import time

RUNS = int(os.environ.get("RUNS", "50"))
STARTS = int(os.environ.get("STARTS", "512"))
INSTANCES = int(os.environ.get("INSTANCES", "100"))
AT_ONCE = 128
WARM_UP = 5
BIN = os.environ["BIN"]
USER = pwd.getpwnam(os.environ["DEMO_USER"])
DIR = os.environ["DEMO_DIR"]
DAEMON = int(os.environ["DAEMON"])
# As private-daemon's agentd.toml has it.
POOL = range(1901000000, 1901004500)
# What an idle session may cost of agentd.
IDLE = 5 << 20
WORK = f"{USER.pw_dir}/bench"
BUNDLE = f"{DIR}/bundle"
# What a namespaced process sees of the system, alike for all.
LINKS = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"]


def bwrap():
    """All namespaces, a root of its own, no capability. No seccomp filter: it has none of its own."""
    argv = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    argv += ["--ro-bind", "/usr", "/usr", "--ro-bind", "/opt", "/opt"]
    for link in LINKS:
        if os.path.islink("/" + link):
            argv += ["--symlink", os.readlink("/" + link), "/" + link]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", USER.pw_dir]
    return argv + ["--bind", WORK, WORK, "--chdir", WORK, "--", "/bin/true"]


# Name: (who, argv). The numbers of agentd-bench-* are what runtimes want as container ids.
CONTENDERS = {
    "bare": ("user", ["/bin/true"]),
    "bwrap": ("user", bwrap()),
    "agentctl": ("user", [f"{BIN}/agentctl", "run", "--rm", "--", "/bin/true"]),
    "crun": ("root", ["crun", "--cgroup-manager=cgroupfs", "run", "--bundle", BUNDLE, "agentd-bench-crun"]),
    "runc": ("root", ["runc", "run", "--bundle", BUNDLE, "agentd-bench-runc"]),
}


def bundle():
    """An OCI bundle that does what the specification can of the same."""
    root = f"{BUNDLE}/rootfs"
    for name in ["usr", "opt", "proc", "dev", "tmp", WORK.lstrip("/")]:
        os.makedirs(f"{root}/{name}", exist_ok=True)
    for link in LINKS:
        if os.path.islink("/" + link):
            os.symlink(os.readlink("/" + link), f"{root}/{link}")

    def mount(kind, source, destination, *options):
        return {"type": kind, "source": source, "destination": destination, "options": list(options)}

    no_privilege = {kind: [] for kind in ["bounding", "effective", "permitted", "inheritable", "ambient"]}
    refused = ["add_key", "bpf", "io_uring_setup", "keyctl", "mount", "perf_event_open", "pivot_root",
               "ptrace", "request_key", "setns", "umount2", "unshare", "userfaultfd"]
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False, "user": {"uid": USER.pw_uid, "gid": USER.pw_gid}, "args": ["/bin/true"],
            "env": ["PATH=/usr/bin:/bin"], "cwd": WORK, "capabilities": no_privilege, "noNewPrivileges": True,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "bench",
        "mounts": [
            mount("proc", "proc", "/proc", "nosuid", "noexec", "nodev"),
            mount("tmpfs", "tmpfs", "/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("devpts", "devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
            mount("tmpfs", "tmpfs", "/tmp", "nosuid", "nodev", "noexec"),
            mount("bind", "/usr", "/usr", "rbind", "ro"),
            mount("bind", "/opt", "/opt", "rbind", "ro"),
            mount("bind", WORK, WORK, "rbind", "rw"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ["pid", "mount", "network", "ipc", "uts", "cgroup"]],
            "resources": {"memory": {"limit": 4 << 30}, "pids": {"limit": 512}},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                        "syscalls": [{"names": refused, "action": "SCMP_ACT_ERRNO"}]},
        },
    }
    with open(f"{BUNDLE}/config.json", "w", encoding="utf-8") as file:
        json.dump(config, file)


def hide_hybrid_cgroup2():
    """crun refuses hosts where cgroup v1 and v2 both have controllers: it gets a view of v1 alone."""
    unified = b"/sys/fs/cgroup/unified"
    if not os.path.ismount(unified):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, ms_rec, ms_slave = 0x20000, 0x4000, 0x80000
    if (libc.unshare(clone_newns) or libc.mount(None, b"/", None, ms_rec | ms_slave, None)
            or libc.umount2(unified, 0)):
        sys.exit(f"bench: {unified.decode()}: {os.strerror(ctypes.get_errno())}")


class Runner:
    """A process that starts programs on demand as one user and says how long they took. posix_spawn keeps what
    Python adds small, and alike for all."""

    def __init__(self, who):
        ask_read, self.ask = os.pipe()
        self.answer, answer_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.ask)
            os.close(self.answer)
            self.serve(who, ask_read, answer_write)
        os.close(ask_read)
        os.close(answer_write)
        self.answers = os.fdopen(self.answer)

    @staticmethod
    def serve(who, ask, answer):
        if who == "user":
            os.initgroups(USER.pw_name, USER.pw_gid)
            os.setgid(USER.pw_gid)
            os.setuid(USER.pw_uid)
            os.environ["HOME"] = USER.pw_dir
        else:
            hide_hybrid_cgroup2()
        os.chdir(WORK)
        log = os.open("/dev/null", os.O_RDWR)
        with os.fdopen(ask) as asked:
            for line in asked:
                argv, stderr, starts = json.loads(line)
                if starts:
                    os.write(answer, f"{at_once(argv, starts, log)} 0\n".encode())
                    continue
                actions = [(os.POSIX_SPAWN_DUP2, log, fd) for fd in (0, 1)]
                if stderr:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                    actions.append((os.POSIX_SPAWN_OPEN, 2, stderr, flags, 0o644))
                began = time.perf_counter_ns()
                pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
                _, status = os.waitpid(pid, 0)
                took = time.perf_counter_ns() - began
                os.write(answer, f"{took} {os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)

    def run(self, argv, stderr=None):
        """Milliseconds."""
        os.write(self.ask, (json.dumps([argv, stderr, 0]) + "\n").encode())
        took, code = map(int, self.answers.readline().split())
        if code != 0:
            sys.exit(f"bench: {' '.join(argv)} ended with {code}")
        return took / 1e6


    def starts_a_second(self, argv):
        """With AT_ONCE of them at a time, of STARTS in all; negative: one ended with this code."""
        os.write(self.ask, (json.dumps([argv, None, STARTS]) + "\n").encode())
        took, _ = map(int, self.answers.readline().split())
        return took if took < 0 else STARTS / (took / 1e9)


def at_once(argv, starts, log):
    """Nanoseconds for so many, AT_ONCE at a time; the code of one that failed, negative. Names of containers have to
    differ: the last word of crun's and runc's command."""
    running, number = 0, 0
    began = time.perf_counter_ns()
    while number < starts or running:
        if number < starts and running < AT_ONCE:
            words = argv[:-1] + [f"{argv[-1]}-{number}"] if argv[0] in ("crun", "runc") else argv
            os.posix_spawnp(words[0], words, os.environ,
                            file_actions=[(os.POSIX_SPAWN_DUP2, log, fd) for fd in (0, 1)])
            number, running = number + 1, running + 1
            continue
        _, status = os.waitpid(-1, 0)
        running -= 1
        if os.waitstatus_to_exitcode(status) != 0:
            while running:
                os.waitpid(-1, 0)
                running -= 1
            return -abs(os.waitstatus_to_exitcode(status))
    return time.perf_counter_ns() - began


def pss(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except OSError:
        return 0


def memory():
    """Bytes that agentd has, by its programs; shared ones by share. What sessions run is theirs."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                name = file.read().strip()
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            leased = os.stat(f"/proc/{pid}").st_uid in POOL
        except OSError:
            continue
        # A meter has no leased uid: it keeps root's, with the right to list directories.
        helper = leased and name.startswith("agentd-") or name == "agentd-meter"
        if int(pid) == DAEMON or parent == DAEMON and name == "agentd" or helper:
            name = "launcher" if int(pid) == DAEMON else name.removeprefix("agentd-").replace("agentd", "service")
            found[name] = found.get(name, 0) + pss(pid)
    return found


def idle(runner):
    """So many sessions that do nothing and to which nobody is attached: what agentd has for each."""
    run = [f"{BIN}/agentctl", "run", "--rm", "--detach", "--", "/bin/sleep", "1000000"]
    runner.run(run)
    time.sleep(1)
    before = memory()
    for _ in range(INSTANCES):
        runner.run(run)
    time.sleep(1)
    now = memory()
    each = {name: (now[name] - before.get(name, 0)) / INSTANCES for name in sorted(now)}
    total = sum(each.values())
    print(f"\n{INSTANCES} idle sessions: {total / (1 << 20):.2f} MiB of agentd each (PSS): "
          + ", ".join(f"{name} {size / 1024:.0f} KiB" for name, size in each.items()))
    listed = subprocess.run([f"{BIN}/agentctl", "ps", "--json"], stdout=subprocess.PIPE, check=True).stdout
    for line in listed.splitlines():
        subprocess.run([f"{BIN}/agentctl", "kill", json.loads(line)["id"]], stdout=subprocess.DEVNULL, check=True)
    return total


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Steps:
    """How long each step of the start took, in microseconds, as `--timings` says."""

    ARGV = [f"{BIN}/agentctl", "run", "--rm", "--timings", "--json", "--", "/bin/true"]
    FILE = f"{WORK}/timings"

    def __init__(self):
        self.steps = {}

    def read(self):
        with open(self.FILE, encoding="utf-8") as file:
            for line in file:
                if line.startswith("{"):
                    step = json.loads(line)
                    name = (step["who"], step["step"])
                    self.steps.setdefault(name, []).append((step["start_us"], step["end_us"]))

    def show(self):
        medians = sorted((statistics.median(s for s, _ in all_), statistics.median(e - s for s, e in all_), name)
                         for name, all_ in self.steps.items())
        # The client's clock starts with the client, the daemon's with the request: two lists.
        for who in sorted({name[0] for name in self.steps}):
            print(f"\n{who}, median µs\n{'from':>10} {'length':>10}")
            for start, length, name in medians:
                if name[0] == who:
                    print(f"{start:10.0f} {length:10.0f}  {name[1]}")


def main():
    os.makedirs(WORK, exist_ok=True)
    os.chown(WORK, USER.pw_uid, USER.pw_gid)
    bundle()
    runners = {"user": Runner("user"), "root": Runner("root")}
    times = {name: [] for name in CONTENDERS}
    steps = Steps()
    for turn in range(WARM_UP + RUNS):
        for name, (who, argv) in CONTENDERS.items():
            took = runners[who].run(argv)
            if turn >= WARM_UP:
                times[name].append(took)
        runners["user"].run(Steps.ARGV, Steps.FILE)
        if turn >= WARM_UP:
            steps.read()
    alone = [runners["user"].run(CONTENDERS["agentctl"][1]) for _ in range(RUNS)]
    rates = {name: runners[who].starts_a_second(argv) for name, (who, argv) in CONTENDERS.items()} if STARTS else {}
    each = idle(runners["user"]) if INSTANCES else 0
    # All ends first: a later runner has inherited the earlier ones'.
    for runner in runners.values():
        os.close(runner.ask)
    for runner in runners.values():
        os.waitpid(runner.pid, 0)

    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, {RUNS} runs of each, in turns")
    reference = statistics.median(times["bwrap"])
    print(f"{'':10} {'median ms':>10} {'p90 ms':>10} {'x bwrap':>10}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:10} {median:10.2f} {percentile(values, 0.9):10.2f} {median / reference:10.2f}")
    print(f"\nagentctl again and again, nothing between: median {statistics.median(alone):.2f} ms")
    if rates:
        print(f"\nstarts a second, {AT_ONCE} at a time, {STARTS} of each: "
              + ", ".join(f"{name} {rate:.0f}" if rate > 0 else f"{name} ended with {-rate}"
                          for name, rate in rates.items()))
    steps.show()
    if any(rate < 0 for rate in rates.values()):
        sys.exit(f"bench: not all can be started {AT_ONCE} at a time")
    if each > IDLE:
        sys.exit(f"bench: an idle session costs {each / (1 << 20):.2f} MiB; at most {IDLE >> 20} are right")


if __name__ == "__main__":
    main()
