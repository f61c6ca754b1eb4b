"""The backends as processes: started, hurt as a schedule says, and ended by their pids."""

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import schedule
from products.server import free_port

PROGRAM = Path(__file__).with_name("backend.py")
START_SECONDS = 20

# Not the address that outgoing connections come from: the port of a dead backend stays free.
ADDRESS = "127.0.1.1"


class Member:
    """One backend, over all the processes that it was."""

    def __init__(self, name, folder, program=PROGRAM):
        self.name = name
        self.program = program
        self.port = free_port()
        self.address = f"{ADDRESS}:{self.port}"
        self.ledger = folder / f"ledger-{name}"
        self.errors = folder / f"backend-{name}.log"
        self.process = None
        self.cpu = 0.0

    def start(self):
        command = [sys.executable, "-B", self.program, ADDRESS]
        command += [self.port, self.name, self.ledger]
        with open(self.errors, "ab") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def wait_ready(self):
        wait_ready(self.process.stdout, f"backend {self.name}, see {self.errors}", START_SECONDS)

    def tell(self, command):
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        """At once, whatever state it is in."""
        if self.process is None:
            return
        self.cpu += cpu_seconds(self.process.pid)
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None

    def executed(self):
        return self.ledger.read_text().split() if self.ledger.exists() else []


class Site:
    def __init__(self, folder, names=schedule.ACTIVE + schedule.STANDBY, program=PROGRAM):
        self.members = {name: Member(name, Path(folder), program) for name in names}

    def __enter__(self):
        try:
            for member in self.members.values():
                member.start()
            for member in self.members.values():
                member.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        for member in self.members.values():
            member.end()

    def active(self):
        return [self.members[name].address for name in schedule.ACTIVE]

    def standby(self):
        return self.members[schedule.STANDBY].address

    def begin(self, fault):
        for name in fault.whom:
            member = self.members[name]
            if fault.kind == "kill":
                member.end()
            elif fault.kind == "freeze":
                member.signal(signal.SIGSTOP)
            else:
                member.tell(f"{fault.kind} {'lies' if fault.lies else 'honest'}")

    def mend(self, fault):
        for name in fault.whom:
            member = self.members[name]
            if fault.kind == "kill":
                member.start()
            elif fault.kind == "freeze":
                member.signal(signal.SIGCONT)
            else:
                member.tell("ok")
        if fault.kind == "kill":
            for name in fault.whom:
                self.members[name].wait_ready()

    def play(self, faults, begin, meanwhile=lambda fault: None):
        """Blocks until the last fault has ended. Returns them with the times at which they came: on
        a busy machine later than planned, but no shorter. `meanwhile`: done amid each of them."""
        played = []
        for fault in faults:
            sleep_until(begin + fault.start)
            start = time.monotonic()
            self.begin(fault)
            sleep_until(start + (fault.end - fault.start) / 2)
            meanwhile(fault)
            sleep_until(start + fault.end - fault.start)
            played.append(replace(fault, start=start - begin, end=time.monotonic() - begin))
            self.mend(fault)
        return played

    def executed(self):
        """How often each id was executed, over all backends."""
        return Counter(ident for member in self.members.values() for ident in member.executed())

    def cpu(self):
        alive = [member.process.pid for member in self.members.values() if member.process]
        return sum(member.cpu for member in self.members.values()) + sum(map(cpu_seconds, alive))


def wait_ready(output, name, seconds):
    """Until a child of ours has said so; the pipe is read no further than that."""
    ready, _, _ = select.select([output], [], [], seconds)
    if not ready or output.readline() != b"ready\n":
        raise RuntimeError(f"not started in {seconds} s: {name}")


def sleep_until(when):
    while (left := when - time.monotonic()) > 0:
        time.sleep(left)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
