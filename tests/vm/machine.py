"""The virtual machine: qemu without hardware acceleration, and a channel for commands over a virtio port."""

import base64
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time


class Failed(Exception):
    """A command did not do what it should; says what it said."""


class Result:
    def __init__(self, code, out, took):
        self.code, self.out, self.took = code, out, took

    def __repr__(self):
        return f"exit {self.code} after {self.took:.1f} s: {self.out[-2000:]}"


class Job:
    """A script that runs in the guest."""

    def __init__(self, machine, number, script, timeout):
        self.machine, self.number, self.script = machine, number, script
        self.began = time.monotonic()
        self.end = self.began + timeout + 60
        self.data, self.code = b"", None

    def message(self, message):
        if "out" in message:
            self.data += base64.b64decode(message["out"])
            return
        self.code = message["code"]
        took = time.monotonic() - self.began
        self.machine.note(f"$ {self.script}\n{self.out}[exit {self.code}, {took:.1f} s]\n")

    @property
    def out(self):
        return self.data.decode(errors="replace")

    def wait(self):
        while self.code is None:
            self.machine.take(self.end)
        self.machine.jobs.pop(self.number, None)
        return Result(self.code, self.out, time.monotonic() - self.began)

    def wait_for(self, text, timeout=60):
        """Until it has written `text`."""
        end = time.monotonic() + timeout
        while text not in self.out:
            if self.code is not None:
                raise Failed(f"`{self.script}` ended with {self.code} before it wrote {text!r}: {self.out[-2000:]}")
            self.machine.take(end)


def login(name, script):
    """`script`, as somebody who logs in for it."""
    return f"su -l {name} -c {shlex.quote(script)}"


class Machine:
    """One disk, and a qemu on it from `start` to `stop` or `pull_the_plug`."""

    def __init__(self, image, work, inputs, memory=3072):
        self.image, self.work, self.memory = image, work, memory
        os.makedirs(work, exist_ok=True)
        self.disk = os.path.join(work, "disk.img")
        self.console = os.path.join(work, "console.log")
        self.transcript = open(os.path.join(work, "transcript.log"), "a", encoding="utf-8")
        # A copy, with its holes: the image is for the next run as well.
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", os.path.join(image, "disk.img"), self.disk], check=True)
        # What is brought along is a disk that is a tar.
        self.inputs = os.path.join(work, "inputs.tar")
        subprocess.run(["tar", "-C", inputs, "-chf", self.inputs, "."], check=True)
        self.qemu = None
        self.number = 0
        self.boots = 0
        self.jobs = {}

    # Power

    def start(self, append="", timeout=240):
        """Power on. Returns the seconds until the channel answered."""
        began = time.monotonic()
        path = os.path.join(self.work, "channel.sock")
        if os.path.exists(path):
            os.unlink(path)
        command = [
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-m", str(self.memory), "-smp", "2", "-nodefaults", "-nographic", "-nic", "none",
            "-kernel", os.path.join(self.image, "vmlinuz"), "-initrd", os.path.join(self.image, "initrd"),
            "-append", f"root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 nokaslr panic=-1 {append}",
            "-drive", f"file={self.disk},if=virtio,format=raw,cache=writeback",
            "-drive", f"file={self.inputs},if=virtio,format=raw,readonly=on",
            "-device", "virtio-serial", "-chardev", f"socket,id=channel,path={path},server=on,wait=on",
            "-device", "virtserialport,chardev=channel,name=agentd.test",
            "-device", "virtio-rng-pci",
            "-serial", f"file:{self.console}.{self.boots}",
        ]
        self.qemu = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=open(os.path.join(self.work, "qemu.log"), "ab"))
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if self.qemu.poll() is not None or time.monotonic() - began > 20:
                    raise Failed(f"qemu did not start; see {self.work}/qemu.log") from None
                time.sleep(0.1)
        self.rest = b""
        self.await_boot(timeout)
        return time.monotonic() - began

    def await_boot(self, timeout):
        end = time.monotonic() + timeout
        while True:
            message = self._receive(end)
            if "boot" in message:
                self.boots += 1
                self.jobs = {}
                self.note(f"--- boot {self.boots}\n")
                return message["boot"]

    def pull_the_plug(self):
        """What a power cut does: nothing of the guest gets another instruction."""
        self.qemu.send_signal(signal.SIGKILL)
        self.qemu.wait()
        self.socket.close()
        self.qemu = None

    def reboot(self, timeout=300):
        """An orderly reboot from inside. Returns its seconds."""
        began = time.monotonic()
        self.sh("systemd-run --quiet --collect --on-active=0.2 --timer-property=AccuracySec=10ms systemctl reboot", timeout=60)
        self.await_boot(timeout)
        return time.monotonic() - began

    def stop(self):
        if self.qemu is None:
            return
        try:
            self.run("systemd-run --quiet --collect --on-active=0.2 --timer-property=AccuracySec=10ms systemctl poweroff", timeout=30)
            self.qemu.wait(90)
        except (Failed, OSError, subprocess.TimeoutExpired):
            self.qemu.kill()
        self.qemu.wait()
        self.qemu = None

    def remove(self):
        shutil.rmtree(self.work, ignore_errors=True)

    # Commands

    def begin(self, script, timeout=120):
        """Starts `script` with bash as root in the guest; it goes on while others run."""
        self.number += 1
        job = Job(self, self.number, script, timeout)
        self.jobs[job.number] = job
        self.socket.settimeout(30)
        request = {"id": job.number, "script": script, "timeout": timeout}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return job

    def run(self, script, timeout=120):
        """Runs `script` with bash as root in the guest."""
        return self.begin(script, timeout).wait()

    def sh(self, script, timeout=120):
        """Runs `script`, which must succeed. Returns what it wrote."""
        result = self.run("set -euo pipefail\n" + script, timeout)
        if result.code:
            raise Failed(f"`{script.strip()}`: {result!r}")
        return result.out

    def user(self, name, script, timeout=120):
        """Runs `script` as `name`, who logs in for it: through PAM, with a login shell."""
        return self.run(login(name, script), timeout)

    def wait_until(self, script, timeout=60):
        """Waits until `script` succeeds. Returns what it wrote then."""
        end = time.monotonic() + timeout
        while True:
            result = self.run(script, timeout)
            if result.code == 0:
                return result.out
            if time.monotonic() > end:
                raise Failed(f"not within {timeout} s: `{script}`: {result!r}")
            time.sleep(0.3)

    def note(self, text):
        self.transcript.write(text)
        self.transcript.flush()

    def take(self, end):
        """Takes one message of the guest and gives it to whom it is for."""
        message = self._receive(end)
        if "boot" in message:
            if any(job.code is None for job in self.jobs.values()):
                raise Failed("the machine started anew by itself")
            return
        job = self.jobs.get(message["id"])
        if job is not None:
            job.message(message)

    def _receive(self, end):
        while b"\n" not in self.rest:
            if self.qemu.poll() is not None:
                raise Failed(f"qemu ended ({self.qemu.returncode}); see {self.console}")
            left = end - time.monotonic()
            if left <= 0:
                raise Failed(f"the machine does not answer; see {self.console}")
            self.socket.settimeout(min(left, 1))
            try:
                data = self.socket.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                raise Failed(f"qemu ended; see {self.console}")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)
