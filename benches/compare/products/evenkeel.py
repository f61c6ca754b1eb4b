"""evenkeel, one worker, as a user would write it."""

import signal

from . import certificate
from .server import Server, first_line, free_port

# Nothing is cut while it is measured.
PATIENCE = "timeouts: {client_idle: 1h, tcp_idle: 1h}"


class Evenkeel(Server):
    kind = "evenkeel"

    def __init__(self, name, binary, folder, cpu, backend, config=None):
        """`config`: makes the text of listeners and pools from the port and the backend's address."""
        super().__init__(name, folder, cpu)
        self.binary = binary
        self.backend = backend
        self.admin = free_port()
        self.ports = {"http": free_port()}
        if config is None:
            self.ports |= {"tcp": free_port(), "tls": free_port()}
            self.certificate = certificate.pair(folder)
            config = self.as_the_peers
        self.start([binary, "run", "--config", self.configure(config)])

    def configure(self, config):
        head = f'workers: 1\nadmin: {{listen: "127.0.0.1:{self.admin}"}}\n{PATIENCE}\n'
        text = config(self.ports["http"], self.backend.address)
        return self.write("evenkeel.yaml", head + text)

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def as_the_peers(self, port, address):
        cert, key = self.certificate
        return f"""
listeners:
  http: {{bind: "127.0.0.1:{port}", mode: http, routes: [{{pool: web}}]}}
  tcp: {{bind: "127.0.0.1:{self.ports["tcp"]}", mode: tcp, pool: web}}
  tls:
    bind: "127.0.0.1:{self.ports["tls"]}"
    tls: {{certificates: [{{cert: {cert}, key: {key}}}]}}
    routes: [{{pool: web}}]
pools:
  web:
    backends: ["{address}"]
    health_check: {{http: {{path: /small}}, interval: 2s}}
"""

    def version(self):
        return first_line([self.binary, "--version"])
