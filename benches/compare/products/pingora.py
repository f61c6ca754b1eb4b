"""Pingora: the twenty-line round-robin proxy of benches/pingora. HTTP only."""

import re
from pathlib import Path

from .server import Server, free_port

MANIFEST = Path(__file__).resolve().parents[2] / "pingora/Cargo.toml"


class Pingora(Server):
    kind = "pingora"
    program = "pingora-peer"
    get = "benches/compare/get-peers DIR, or build benches/pingora and name it pingora-peer"

    def __init__(self, name, binary, folder, cpu, backend):
        super().__init__(name, folder, cpu)
        self.ports = {"http": free_port()}
        listen = f"127.0.0.1:{self.ports['http']}"
        self.start([binary, listen, "/small", backend.address])

    def version(self):
        return "Pingora " + re.search(r'version = "=([\d.]+)"', MANIFEST.read_text())[1]
