#!/usr/bin/python3
"""What a form of disk limits costs: the same work in a session's overlay and beside it, on the host's file system.

Run by root, once for each form:
DEMO_KEYS='disk_limits = "image"' tests/demo/private-daemon tests/bench/disk.py [ROUNDS]
Prints a line for each kind of work: median seconds on the host, in a session, and their ratio; and the median time of
a whole session that runs `true`, in milliseconds."""

import os
import statistics
import subprocess
import sys
import time

WORK = r"""
import os, subprocess, sys, time
def files():
    os.mkdir('d')
    for i in range(10000):
        with open('d/%d' % i, 'w') as f: f.write('x' * 100)
    for i in range(10000): os.unlink('d/%d' % i)
    os.rmdir('d')
def synced():
    with open('s', 'wb') as f:
        for i in range(200): f.write(b'x' * 4096); f.flush(); os.fsync(f.fileno())
    os.unlink('s')
def written():
    with open('w', 'wb') as f:
        for i in range(512): f.write(b'x' * (1 << 20))
        f.flush(); os.fsync(f.fileno())
    os.unlink('w')
def compiled():
    for i in range(12):
        with open('c%d.c' % i, 'w') as f:
            f.write('#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n')
            for k in range(300): f.write('int f%d(int x) { char b[99]; sprintf(b, "%%d", x); return strlen(b) + %d; }\n' % (k, k))
        subprocess.run(['gcc', '-O1', '-c', 'c%d.c' % i], check=True)
for work in (files, synced, written, compiled):
    t = time.monotonic(); work(); print(work.__name__, time.monotonic() - t, flush=True)
"""


def measured(command, cwd):
    out = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout
    return {name: float(seconds) for name, seconds in (line.split() for line in out.splitlines())}


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    user, agentctl = os.environ["DEMO_USER"], os.environ["BIN"] + "/agentctl"
    home = os.path.expanduser("~" + user)
    place = os.path.join(home, "bench-disk")
    become = ["runuser", "-u", user, "--"]
    host, inside, whole = [], [], []
    for _ in range(rounds):
        subprocess.run(["rm", "-rf", place], check=True)
        subprocess.run(become + ["mkdir", place], check=True)
        host.append(measured(become + ["/usr/bin/python3", "-c", WORK], place))
        subprocess.run(["rm", "-rf", place], check=True)
        subprocess.run(become + ["mkdir", place], check=True)
        run = become + [agentctl, "run", "--rm", "--disk", "4G", "--"]
        inside.append(measured(run + ["/usr/bin/python3", "-c", WORK], place))
        for _ in range(10):
            began = time.monotonic()
            subprocess.run(run + ["true"], cwd=place, check=True)
            whole.append(1000 * (time.monotonic() - began))
    subprocess.run(["rm", "-rf", place], check=True)
    for name in host[0]:
        outside, within = (statistics.median(each[name] for each in runs) for runs in (host, inside))
        print(f"{name:10} host {outside:7.2f} s   session {within:7.2f} s   {within / outside:5.2f}")
    print(f"a session of `true`: {statistics.median(whole):.1f} ms")


main()
