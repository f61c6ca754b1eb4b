"""The clients: wrk for small answers, `bulk` for large ones, and connections that do nothing."""

import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

WRONG = r"(Socket errors|Non-2xx).*"


@dataclass(frozen=True)
class Seen:
    requests: float
    seconds: float
    p99_millis: float


def load(url, workload, seconds, cpu):
    if workload.client == "bulk":
        return script("bulk", url, workload.connections, seconds, cpu=cpu)
    if workload.client == "h2load":
        return h2load(url, workload.connections, seconds, cpu)
    if workload.client == "resume":
        return script("resume", url, seconds, cpu=cpu)
    return wrk(url, workload.connections, seconds, cpu, workload.close)


@contextmanager
def steady(url, connections, cpu, most_seconds=120):
    """wrk in the background until the block is left; gives its pid. A wrong answer is an error."""
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{connections}", f"-d{most_seconds}s"]
    process = subprocess.Popen(
        [*command, "--timeout", "60s", url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)  # it prints what it saw, and ends
        try:
            text, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
    if wrong := re.search(WRONG, text):
        raise RuntimeError(f"wrk {url}: {wrong[0]}")


def wrk(url, connections, seconds, cpu, close=False):
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    if close:
        command += ["-H", "Connection: close"]
    command += ["--timeout", "10s", "--latency", url]
    done = subprocess.run(command, capture_output=True, text=True)
    text = done.stdout
    total = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m),", text)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", text)
    # A wrong answer is no measurement: better no figure than a good one for errors.
    wrong = re.search(WRONG, text)
    if done.returncode != 0 or not total or not p99 or wrong or int(total[1]) == 0:
        raise RuntimeError(f"wrk {url}: {wrong[0] if wrong else text + done.stderr}")
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
    return Seen(
        requests=int(total[1]),
        seconds=float(total[2]) * scale[total[3]] / 1e3,
        p99_millis=float(p99[1]) * scale[p99[2]],
    )


def h2load(url, connections, seconds, cpu):
    """HTTP/2, ten streams a connection."""
    command = ["taskset", "-c", str(cpu), "h2load", "-t1", f"-c{connections}", "-m10"]
    done = subprocess.run([*command, f"-D{seconds}", url], capture_output=True, text=True)
    text = done.stdout
    took = re.search(r"finished in ([\d.]+)(ms|s),", text)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    protocol = "Application protocol: h2" in text
    if done.returncode != 0 or not took or not counts or not protocol or int(counts[1]) == 0:
        raise RuntimeError(f"h2load {url}: {text + done.stderr}")
    if counts.groups()[1:] != ("0", "0", "0"):
        raise RuntimeError(f"h2load {url}: {counts[0]}")
    length = float(took[1]) * (1e-3 if took[2] == "ms" else 1.0)
    return Seen(int(counts[1]), length, float("nan"))


def script(name, url, *numbers, cpu):
    client = Path(__file__).with_name(name)
    command = ["taskset", "-c", str(cpu), sys.executable, client, url, *numbers]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{name} {url}: {done.stderr}")
    return Seen(**json.loads(done.stdout))


@contextmanager
def idle(url, connections):
    """So many open connections, each of which has been answered once."""
    where = urlsplit(url)
    request = f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(connections):
            client = stack.enter_context(
                socket.create_connection((where.hostname, where.port), timeout=10)
            )
            client.sendall(request)
            answer = b""
            while not answer.endswith(b"hello, world\n"):
                some = client.recv(4096)
                if not some:
                    raise RuntimeError(f"idle {url}: closed after {answer!r}")
                answer += some
        yield
