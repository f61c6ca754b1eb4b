"""What is asked of the products: one entry a workload. A new one is a new entry here.

The backend (see `products.Backend`) answers `path`; `mode` says how a product listens.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    name: str
    question: str
    mode: str  # "http": requests are read and passed on one by one; "tcp": bytes are relayed
    path: str
    connections: int = 64


WORKLOADS = [
    Workload("h1-small", "small answers over kept-alive HTTP/1.1 connections", "http", "/small"),
    Workload("h1-10k", "answers of 10 KiB over kept-alive HTTP/1.1 connections", "http", "/10k"),
    Workload("tcp-small", "small exchanges over long TCP streams", "tcp", "/small"),
]
