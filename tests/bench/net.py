#!/usr/bin/python3
"""What a session's egress costs: beside a direct connection, squid, tinyproxy and mitmproxy, and for names dnsmasq and
unbound. `make bench-net` runs it, through private-daemon, in a network namespace of its own.

Everything goes through the loopback of that namespace: client, what is between, and server. The client is the same
program for all; in the session it knows of no proxy, the others have it ask by CONNECT. All take turns, RUNS times
(default 5), and medians are printed. BYTES (default 512 MiB) is how much goes at once, JSON=1 prints a line for each
figure as well. Programs that are missing are left out."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys

import contenders

RUNS = int(os.environ.get("RUNS") or "5")
BYTES = int(os.environ.get("BYTES") or str(512 << 20))
SMALL, NEW, JOBS, FLIGHT = 2000, 300, 16, 100
# Of names, and of connections: of these a session has 4,096 at once, and then 512 in each second.
SECONDS, BURST = 1.0, 0.5
HELD = 1000
LISTED = 1_000_000

# What is measured of connections: (name, question, figure, unit).
BULK = [(f"{way} {kind}", f"{way} {kind} {BYTES}") for way in ["download", "upload"] for kind in ["raw", "https"]]
KEPT = [(f"kept {kind}", f"kept {kind} {SMALL}") for kind in ["raw", "https"]]
FRESH = [(f"new {kind}", f"new {kind} {NEW}") for kind in ["raw", "https"]]
RATE = [(f"connections/s {kind}", f"rate {kind} {JOBS} {BURST}") for kind in ["raw", "https"]]


class Figures:
    """All that was measured."""

    def __init__(self):
        self.all = {}

    def add(self, who, what, figures):
        for key, value in figures.items():
            self.all.setdefault((who, what, key), []).append(value)

    def has(self, who, what, key):
        return (who, what, key) in self.all

    def median(self, who, what, key):
        return statistics.median(self.all[who, what, key])

    def lines(self):
        for (who, what, key), values in self.all.items():
            print(json.dumps({"contender": who, "measure": what, "figure": key, "median": statistics.median(values),
                              "runs": values}))


def table(title, heads, rows):
    widths = [max(len(str(row[n])) for row in [heads, *rows]) for n in range(len(heads))]
    print(f"\n{title}")
    for row in [heads, *rows]:
        first, *rest = (str(cell) for cell in row)
        print("  " + first.ljust(widths[0]) + "".join("  " + cell.rjust(w) for cell, w in zip(rest, widths[1:])))


def connections(figures, workers, floor):
    for turn in range(RUNS):
        # Each is first in its turn.
        order = workers[turn % len(workers):] + workers[:turn % len(workers)]
        for name, question in BULK + KEPT + FRESH + RATE:
            for worker in order + (floor if (name, question) in KEPT else []):
                figures.add(worker.name, name, worker.ask(question))


def memory(figures, workers):
    for worker in workers[1:]:
        idle = contenders.pss(worker.pids())
        worker.ask(f"hold {HELD}")
        held = contenders.pss(worker.pids())
        worker.ask("release")
        figures.add(worker.name, "memory", {"idle": idle, "held": held})


def names(figures, direct, session, resolvers):
    ask = {"bare loop": (direct, f"{contenders.SERVER}:53"), "agentd": (session, f"{contenders.SERVER}:53")}
    ask |= {name: (direct, f"127.0.0.1:{port}") for name, port in resolvers.items()}
    for _ in range(RUNS):
        for name, (worker, server) in ask.items():
            figures.add(name, "dns", worker.ask(f"dns {server} {contenders.NAME} {FLIGHT} {SECONDS}"))
    return list(ask)


def lists(figures):
    """A blocklist of LISTED names, as the daemon reads it, and as each session's helpers look names up in it."""
    for _ in range(RUNS):
        said = subprocess.run([f"{contenders.LOAD}/netload", "lists", str(LISTED)], check=True, capture_output=True, text=True)
        figures.add("blocklist", "names", json.loads(said.stdout))


def show(figures, who, resolvers):
    def rate(name, what):
        value, direct = figures.median(name, what, "rate"), figures.median("direct", what, "rate")
        return [f"{value / 1e6:.0f}", f"{value / direct:.2f}"]

    table("MB/s, and as a share of direct", ["", *(head for what, _ in BULK for head in [what, "x"])],
          [[name, *(cell for what, _ in BULK for cell in rate(name, what))] for name in who])

    def times(name, what):
        return "{:.0f} / {:.0f}".format(*(figures.median(name, what, key) for key in ["p50_us", "p99_us"]))

    heads = [what for what, _ in KEPT + FRESH]
    table("µs for a small question and its answer, p50 / p99: on a kept connection, on a new one", ["", *heads],
          [[name, *(times(name, what) for what in heads)] for name in who])
    if figures.has("socat", KEPT[0][0], "p50_us"):
        heads = [what for what, _ in KEPT]
        table("the least that a program between costs (socat: two system calls a message, which it does not look at)",
              ["", *heads], [["socat", *(times("socat", what) for what in heads)]])
    heads = [what for what, _ in RATE]
    table(f"new connections a second, each with a question, {JOBS} at a time", ["", *heads],
          [[name, *(f"{figures.median(name, what, 'rate'):.0f}" for what in heads)] for name in who])
    table(f"answers a second from cache, {FLIGHT} on their way; µs for one at a time", ["", "dns/s", "one", "lost"],
          [[name, *(f"{figures.median(name, 'dns', key):.0f}" for key in ["rate", "one_us", "lost"])]
           for name in resolvers])
    named = {key: figures.median("blocklist", "names", key) for key in ["seconds", "reading", "table", "listed_us", "absent_us"]}
    table(f"a blocklist of {LISTED:,} names: s and MiB to read it, MiB of its table, µs to look a name up, listed or not",
          ["", "s", "reading", "table", "listed", "absent"],
          [["", f"{named['seconds']:.2f}", f"{named['reading'] / (1 << 20):.1f}", f"{named['table'] / (1 << 20):.1f}",
            f"{named['listed_us']:.1f}", f"{named['absent_us']:.1f}"]])
    table(f"MiB (PSS) of what is between, idle and with {HELD} connections open; KiB for each", ["", "idle", "held", "each"],
          [[name, f"{idle / (1 << 20):.1f}", f"{held / (1 << 20):.1f}", f"{(held - idle) / 1024 / HELD:.1f}"]
           for name in who[1:]
           for idle, held in [[figures.median(name, "memory", key) for key in ["idle", "held"]]]])


def aims(figures, who):
    """What was aimed at, what came of it, and whether that is enough."""
    others = [name for name in who if name not in ("direct", "agentd")]
    found = []
    for what, _ in BULK:
        ours, aim = figures.median("agentd", what, "rate"), 0.8 if what.endswith("raw") else 0.95
        share = ours / figures.median("direct", what, "rate")
        found.append((f"{what}: at least {aim} of direct", f"{share:.2f}", share >= aim))
        if others:
            best = max(others, key=lambda name: figures.median(name, what, "rate"))
            ratio = ours / figures.median(best, what, "rate")
            found.append((f"{what}: ahead of each", f"{ratio:.2f} of {best}", ratio > 1))
    for what, _ in KEPT:
        ours = figures.median("agentd", what, "p50_us")
        added = ours - figures.median("direct", what, "p50_us")
        found.append((f"{what}: at most 25 µs added", f"{added:.0f}", added <= 25))
        if "squid" in who:
            ahead = figures.median("squid", what, "p50_us") - ours
            found.append((f"{what}: ahead of squid", f"by {ahead:.0f} µs", ahead > 0))
    if "squid" in who:
        for what, _ in RATE:
            ratio = figures.median("agentd", what, "rate") / figures.median("squid", what, "rate")
            found.append((f"{what}: at least squid's", f"{ratio:.2f}", ratio >= 1))
    rate = figures.median("agentd", "dns", "rate")
    kept = sum(figures.median("blocklist", "names", key) for key in ["table", "reading"]) / (1 << 20)
    found.append((f"a blocklist of {LISTED:,} names: under 100 MB, while it is read", f"{kept:.0f} MiB", kept < 95))
    found.append(("dns: at least 100,000 a second", f"{rate:,.0f}", rate >= 100_000))
    return found


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    os.makedirs(contenders.WORK, exist_ok=True)
    os.chown(contenders.WORK, contenders.USER.pw_uid, contenders.USER.pw_gid)
    programs, workers, floor, resolvers = [contenders.server()], [], [], {}
    try:
        direct, session = contenders.worker("direct"), contenders.session()
        workers += [direct, session]
        # The names first: what answers them is not there before.
        for name, (path, start, port) in contenders.RESOLVERS.items():
            if os.path.exists(path):
                programs.append(start(port))
                resolvers[name] = port
            else:
                print(f"{name} is not here, and left out", file=sys.stderr)
        figures = Figures()
        asked = names(figures, direct, session, resolvers)
        for name, (path, start, port) in contenders.PROXIES.items():
            if os.path.exists(path):
                program = start(port)
                programs.append(program)
                pids = (lambda pid: lambda: contenders.tree(pid))(program.child.pid)
                workers.append(contenders.worker(name, f"127.0.0.1:{port}", pids=pids))
            else:
                print(f"{name} is not here, and left out", file=sys.stderr)
        memory(figures, workers)
        if os.path.exists("/usr/bin/socat"):
            worker, forwarding = contenders.forwarder()
            floor.append(worker)
            programs += forwarding
        else:
            print("socat is not here, and left out", file=sys.stderr)
        connections(figures, workers, floor)
        lists(figures)
    finally:
        for one in workers + floor + programs:
            one.end()

    who = [worker.name for worker in workers]
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, medians of {RUNS}, in turns")
    show(figures, who, asked)
    table("aims", ["", "", ""], [[aim, came, "met" if met else "missed"] for aim, came, met in aims(figures, who)])
    if os.environ.get("JSON"):
        figures.lines()


if __name__ == "__main__":
    main()
