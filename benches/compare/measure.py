"""Reads what a process has used, and what wrk saw. Knows nothing of the products."""

import os
import re
import resource
import subprocess
import time
from dataclasses import dataclass

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Of a process and its children: CPU seconds so far, resident bytes now."""

    user: float
    kernel: float
    resident: int


@dataclass(frozen=True)
class Round:
    """One product under load for a few seconds."""

    requests: int
    per_second: float
    p99_millis: float
    user_micros: float  # per request
    kernel_micros: float  # per request
    resident: int
    foreign: float  # user time of other programs on the two CPUs, as a share of one

    @property
    def cpu_micros(self):
        return self.user_micros + self.kernel_micros


def usage(pid):
    user = kernel = resident = 0
    for member in [pid, *descendants(pid)]:
        with open(f"/proc/{member}/stat") as file:
            # The name in brackets may hold spaces; what follows it are fields 3 and on.
            fields = file.read().rpartition(")")[2].split()
        user += int(fields[11])
        kernel += int(fields[12])
        resident += int(fields[21]) * PAGE_BYTES
    return Usage(user / TICKS_PER_SECOND, kernel / TICKS_PER_SECOND, resident)


def descendants(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            for child in map(int, file.read().split()):
                found += [child, *descendants(child)]
    return found


def run_round(pid, backend_pid, url, connections, seconds, cpus):
    """Loads `url` by wrk on the second CPU; charges what `pid` used meanwhile to the requests."""
    before, all_before = usage(pid), user_seconds(cpus)
    known_before = before.user + usage(backend_pid).user + children_user_seconds()
    seen = wrk(url, connections, seconds, cpus[1])
    after, all_after = usage(pid), user_seconds(cpus)
    known_after = after.user + usage(backend_pid).user + children_user_seconds()
    micros = 1e6 / seen.requests
    foreign = (all_after - all_before) - (known_after - known_before)
    return Round(
        requests=seen.requests,
        per_second=seen.requests / seen.seconds,
        p99_millis=seen.p99_millis,
        user_micros=(after.user - before.user) * micros,
        kernel_micros=(after.kernel - before.kernel) * micros,
        resident=after.resident,
        foreign=max(0.0, foreign / seen.seconds),
    )


def wait_for_quiet(cpus, most, until):
    """Until other programs leave the CPUs alone for a moment; at most `until` (monotonic)."""
    while time.monotonic() < until:
        before = user_seconds(cpus)
        time.sleep(0.5)
        if user_seconds(cpus) - before <= most * 0.5:
            return


def user_seconds(cpus):
    """Of all programs together on these CPUs, nice ones included."""
    total = 0
    with open("/proc/stat") as file:
        for line in file:
            name, *fields = line.split()
            if name in [f"cpu{cpu}" for cpu in cpus]:
                total += int(fields[0]) + int(fields[1])
    return total / TICKS_PER_SECOND


def children_user_seconds():
    """Of children that have ended: wrk."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


@dataclass(frozen=True)
class Seen:
    requests: int
    seconds: float
    p99_millis: float


def wrk(url, connections, seconds, cpu):
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    done = subprocess.run([*command, "--latency", url], capture_output=True, text=True)
    text = done.stdout
    total = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m),", text)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", text)
    # A wrong answer is no measurement: better no figure than a good one for errors.
    wrong = re.search(r"(Socket errors|Non-2xx).*", text)
    if done.returncode != 0 or not total or not p99 or wrong or int(total[1]) == 0:
        raise RuntimeError(f"wrk {url}: {wrong[0] if wrong else text + done.stderr}")
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
    return Seen(
        requests=int(total[1]),
        seconds=float(total[2]) * scale[total[3]] / 1e3,
        p99_millis=float(p99[1]) * scale[p99[2]],
    )
