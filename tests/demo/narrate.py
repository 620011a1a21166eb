#!/usr/bin/python3
"""Shows what the demo's agent says, and beside each of its attempts the event that records it.

Usage: narrate.py EVENTS <AGENT-OUTPUT. EVENTS is what `agentctl events -f --json` writes to.
Ends with 1 if an attempt succeeded or left no event. For some the refusal itself is on record; of the others, which
the kernel refuses by an error of the system call, it is the program that tried."""

import json
import os
import sys
import time

EVENT_TIMEOUT = 3.0
COLOURS = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


class Events:
    """The lines of a file that grows."""

    def __init__(self, path):
        self.file = open(path, encoding="utf-8")
        self.rest = ""
        self.seen = []

    def read(self):
        *lines, self.rest = (self.rest + self.file.read()).split("\n")
        self.seen += [json.loads(line) for line in lines if line]

    def find(self, wanted):
        """The newest event of that kind that holds all words; waits for it a little. Arguments are words
        only of programs that last: of others agentd may come too late to read them."""
        kind, *words = wanted.split()
        end = time.monotonic() + EVENT_TIMEOUT
        while True:
            self.read()
            for event in reversed(self.seen):
                if event["kind"] == kind and all(word in short(event) for word in words):
                    return event
            if time.monotonic() > end:
                return None
            time.sleep(0.05)


def short(event):
    """What an event says, on a line."""
    exec_, net, dns, limit, confine = (event.get(detail) for detail in ("exec", "net", "dns", "limit", "confine"))
    if exec_:
        argv = " ".join(exec_.get("argv") or []).replace("\n", " ")
        return f"{exec_['path']} {argv and f'({argv})'}".strip()
    if net:
        port = f" port {net['port']}" if net.get("port") else ""
        return f"{net['protocol']} {net['address']}{port}"
    if dns:
        return f"{dns['type']} {dns['name']}"
    if confine:
        return f"{confine['call']}({confine.get('argument') or ''}) by {event['actor'].get('exe')}"
    if limit:
        return f"{limit['name']} {limit.get('limit') or ''}".strip()
    return ""


def is_refusal(event):
    """Whether it says that something was refused, and not only what ran."""
    return event is not None and (event.get("decision") == "deny" or event["kind"] == "limit.hit")


def describe(event):
    if event is None:
        return paint("31", "no event")
    text = f"event {event['seq']}: {event['kind']} {event.get('decision') or ''}".rstrip() + f" {short(event)}"
    return paint("36", text[:100])


def main():
    events = Events(sys.argv[1])
    bad = tried = denied = 0
    for line in sys.stdin:
        line = line.rstrip("\n")
        if not line.startswith("\t"):
            print("  " + line, flush=True)
            continue
        if line == "\t":
            print(paint("1", "\nNow it misbehaves"), flush=True)
            continue
        what, status, output, wanted = line[1:].split("\t")
        event = events.find(wanted)
        held = status != "0"
        tried += 1
        bad += not held or event is None
        denied += held and is_refusal(event)
        sign = paint("32", "refused") if held else paint("1;31", "REACHED")
        print(f"  {sign} {what:26} {output[-90:] or 'exit ' + status}")
        print(f"          {describe(event)}", flush=True)
    good = tried - bad
    print(paint("1", f"\n  {tried} attempts, {good} refused"), flush=True)
    print(f"  on record: {denied} refusals; of the other {good - denied} the program that tried, not the refusal", flush=True)
    sys.exit(1 if bad or not tried else 0)


if __name__ == "__main__":
    main()
