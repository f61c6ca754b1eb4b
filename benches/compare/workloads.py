"""What is asked of the products: one entry a workload. A new one is a new entry here.

The backend (see `products/backend.py`) answers `path`; `mode` says how a product listens.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    name: str
    question: str
    mode: str  # "http": requests are read and passed on one by one; "tcp": bytes; "tls": https
    path: str
    connections: int = 64
    close: bool = False  # each request on a connection of its own
    client: str = "wrk"  # or "bulk", "idle", "h2load", "resume"

    @property
    def cost(self):
        """What a unit of work costs: the column's name, and a microsecond in its measure."""
        if self.client == "bulk":
            return "CPU ms/10 MiB", 1e-3
        return ("CPU µs/connection" if self.close else "CPU µs/request"), 1.0


KEPT = "kept-alive HTTP/1.1 connections"

WORKLOADS = [
    Workload("h1-small", f"small answers over {KEPT}", "http", "/small"),
    Workload("h1-10k", f"answers of 10 KiB over {KEPT}", "http", "/10k"),
    Workload("h1-100k", f"answers of 100 KiB over {KEPT}", "http", "/100k"),
    Workload("h1-10m", f"answers of 10 MiB over {KEPT}", "http", "/10m", 4, client="bulk"),
    Workload("h1-churn", "one small request, then Connection: close", "http", "/small", close=True),
    Workload("tcp-small", "small exchanges over long TCP streams", "tcp", "/small"),
    Workload("tcp-10m", "10 MiB at a time over long TCP streams", "tcp", "/10m", 4, client="bulk"),
    Workload("tcp-churn", "a TCP stream for each small exchange", "tcp", "/small", close=True),
    Workload("tls-small", f"small answers over {KEPT} and TLS 1.3", "tls", "/small"),
    Workload("tls-1m", f"answers of 1 MiB over {KEPT} and TLS 1.3", "tls", "/1m", 8),
    Workload("tls-full", "a full handshake for each request", "tls", "/small", close=True),
    Workload(
        "tls-resumed", "a resumed handshake for each request, one at a time", "tls", "/small", 1,
        close=True, client="resume",
    ),
    Workload(
        "h2-small", "small answers over HTTP/2, ten at once a connection", "tls", "/small", 16,
        client="h2load",
    ),
    Workload("idle", f"memory of idle {KEPT}", "http", "/small", 10_000, client="idle"),
]
