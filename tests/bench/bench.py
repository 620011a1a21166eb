#!/usr/bin/python3
"""`agentctl run -- /bin/true` beside bubblewrap, crun and runc, from the start of the program to its end.

Run it through private-daemon: `make bench`. RUNS is the number of tries of each (default 50). The programs take
turns, so that a slow moment of the machine falls on all. agentctl and bubblewrap run as an unprivileged user;
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
WARM_UP = 5
BIN = os.environ["BIN"]
USER = pwd.getpwnam(os.environ["DEMO_USER"])
DIR = os.environ["DEMO_DIR"]
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
                argv, stderr = json.loads(line)
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
        os.write(self.ask, (json.dumps([argv, stderr]) + "\n").encode())
        took, code = map(int, self.answers.readline().split())
        if code != 0:
            sys.exit(f"bench: {' '.join(argv)} ended with {code}")
        return took / 1e6


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
                    self.steps.setdefault(step["step"], []).append((step["start_us"], step["end_us"]))

    def show(self):
        medians = sorted((statistics.median(s for s, _ in all_), statistics.median(e - s for s, e in all_), name)
                         for name, all_ in self.steps.items())
        # The client's clock starts with the client, the launcher's with the request: two lists.
        client = [m for m in medians if m[2].startswith("agentctl.")]
        for title, steps in [("agentctl", client), ("launcher and builder", [m for m in medians if m not in client])]:
            print(f"\n{title}, median µs\n{'from':>10} {'length':>10}")
            for start, length, name in steps:
                print(f"{start:10.0f} {length:10.0f}  {name}")


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
    steps.show()


if __name__ == "__main__":
    main()
