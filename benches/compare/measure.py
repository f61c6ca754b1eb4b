"""Reads what a process has used while it was asked. Knows nothing of the products."""

import os
import resource
import time
from dataclasses import dataclass

import load

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

    requests: float
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


def run_round(pid, backend_pid, url, workload, seconds, cpus):
    """Loads `url` from the second CPU; charges what `pid` used meanwhile to the requests."""
    before, all_before = usage(pid), user_seconds(cpus)
    known_before = before.user + usage(backend_pid).user + children_user_seconds()
    seen = load.load(url, workload, seconds, cpus[1])
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


def run_window(pid, backend, client_pid, seconds, cpus):
    """The same under a load that runs already; the backend counts the requests."""
    def known():
        return sum(usage(each).user for each in (pid, backend.process.pid, client_pid))

    requests, begin = backend.requests(), time.monotonic()
    before, known_before, all_before = usage(pid), known(), user_seconds(cpus)
    time.sleep(seconds)
    after, known_after, all_after = usage(pid), known(), user_seconds(cpus)
    requests, took = backend.requests() - requests - 1, time.monotonic() - begin
    if requests < 1:
        raise RuntimeError("no request came through")
    foreign = (all_after - all_before) - (known_after - known_before)
    return Round(
        requests=requests,
        per_second=requests / took,
        p99_millis=float("nan"),
        user_micros=(after.user - before.user) * 1e6 / requests,
        kernel_micros=(after.kernel - before.kernel) * 1e6 / requests,
        resident=after.resident,
        foreign=max(0.0, foreign / took),
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
    """Of children that have ended: the clients."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def proportional_bytes(pid):
    """Memory of a process and its children; what they share counts once."""
    total = 0
    for member in [pid, *descendants(pid)]:
        with open(f"/proc/{member}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    return total


def settled_bytes(pid, still_seconds=2.0, most_seconds=20.0):
    """The same, once it has not changed by more than 16 KiB for a while; at most so long."""
    until = time.monotonic() + most_seconds
    last, since = proportional_bytes(pid), time.monotonic()
    while time.monotonic() < min(since + still_seconds, until):
        time.sleep(0.25)
        now = proportional_bytes(pid)
        if abs(now - last) > 16 * 1024:
            last, since = now, time.monotonic()
    return last
