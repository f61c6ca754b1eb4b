"""evenkeel, one worker, as a user would write it."""

from .server import Server, first_line, free_port

# Nothing is cut while it is measured.
PATIENCE = "timeouts: {client_idle: 1h, tcp_idle: 1h}"


class Evenkeel(Server):
    kind = "evenkeel"

    def __init__(self, name, binary, folder, cpu, backend, config=None):
        """`config`: makes the file's text of the two ports; without it, what the peers do."""
        super().__init__(name, folder, cpu)
        self.binary = binary
        self.ports = {"http": free_port()}
        if config is None:
            self.ports["tcp"] = free_port()
            text = plain(self.ports["http"], self.ports["tcp"], backend)
        else:
            text = config(self.ports["http"])
        self.admin = free_port()
        head = f'workers: 1\nadmin: {{listen: "127.0.0.1:{self.admin}"}}\n{PATIENCE}\n'
        self.config = self.write("evenkeel.yaml", head + text)
        self.start([binary, "run", "--config", self.config])

    def version(self):
        return first_line([self.binary, "--version"])


def plain(http, tcp, backend):
    return f"""
listeners:
  http: {{bind: "127.0.0.1:{http}", mode: http, routes: [{{pool: web}}]}}
  tcp: {{bind: "127.0.0.1:{tcp}", mode: tcp, pool: web}}
pools:
  web:
    backends: ["{backend.address}"]
    health_check: {{http: {{path: /small}}, interval: 2s}}
"""
