"""One product through one schedule: backends, product and clients started, hurt, and ended."""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import accounting
import measure
import schedule
from client import Load, Seen
from backends import Site, wait_ready

PROGRAM = Path(__file__).with_name("client.py")
CLIENTS = 2  # processes
SETTLE_SECONDS = 1.5  # each backend has been probed by then
START_SECONDS = 20  # at most, for Python to start on a busy machine
TIMEOUT_SECONDS = 5.0
GETS_A_SECOND = 10  # of each user that reads
POSTS_A_SECOND = 2  # of each user that writes
LAST_WORDS_SECONDS = 1.0  # for what a backend reads late


@dataclass
class Round:
    folder: Path
    version: str
    figures: accounting.Figures
    cpu: float  # seconds, of the product
    clients_cpu: float
    backends_cpu: float
    late: float  # p99 of how late the clients sent, in seconds
    notes: str


def run(stack, folder, options, starter):
    """`starter`: makes the product from a folder, the backends and its number of threads."""
    folder = Path(tempfile.mkdtemp(prefix="round-", dir=folder))
    site = stack.enter_context(Site(folder))
    product = starter(folder=folder, site=site, threads=options.threads)
    stack.callback(product.stop)
    time.sleep(SETTLE_SECONDS)
    before = measure.usage(product.process.pid)
    load = Load(
        host="127.0.0.1",
        port=product.ports["http"],
        seconds=schedule.seconds(options.faults),
        readers=options.users,
        read_every=1 / GETS_A_SECOND,
        writers=max(1, options.users * 5 // 19),
        write_every=1 / POSTS_A_SECOND,
        timeout=TIMEOUT_SECONDS,
    )
    seen, played = under_load(load, lambda begin: site.play(options.faults, begin))
    after = measure.usage(product.process.pid)
    time.sleep(LAST_WORDS_SECONDS)
    notes = product.notes()
    done = Round(
        folder=folder,
        version=product.version(),
        figures=accounting.figures(seen.asked, site.executed(), played, load.seconds),
        cpu=after.user + after.kernel - before.user - before.kernel,
        clients_cpu=seen.cpu,
        backends_cpu=site.cpu(),
        late=accounting.share(seen.late, 0.99),
        notes=notes,
    )
    if product.process.poll() is not None:
        raise RuntimeError(f"{product.name} has ended under load; see output.log")
    return done




def under_load(load, meanwhile):
    """What all the clients saw, and what `meanwhile` returned, which runs in this thread and is told
    when the load begins."""
    processes = []
    try:
        for number in range(CLIENTS):
            part = dataclasses.replace(load, part=number, parts=CLIENTS)
            text = json.dumps(dataclasses.asdict(part))
            command = [sys.executable, "-B", str(PROGRAM), text]
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe))
        for process in processes:
            wait_ready(process.stdout, "a client", START_SECONDS)
        begin = time.monotonic() + 0.1
        for process in processes:
            process.stdin.write(f"{begin}\n".encode())
            process.stdin.flush()
        result = meanwhile(begin)
        until = begin + load.seconds + load.timeout + 20
        all_seen = [read(process, until - time.monotonic()) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    merged = Seen(asked=[], late=[], cpu=0.0)
    for seen in all_seen:
        merged.asked += [accounting.Asked(*each) for each in seen["asked"]]
        merged.late += seen["late"]
        merged.cpu += seen["cpu"]
    return merged, result


def read(process, patience):
    try:
        text, _ = process.communicate(timeout=max(1, patience))
    except subprocess.TimeoutExpired:
        raise RuntimeError("a client does not end") from None
    if process.returncode != 0:
        raise RuntimeError("a client has failed, see above")
    return json.loads(text)
