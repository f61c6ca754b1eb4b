"""The programs under test and the backend behind them: their configuration, and how they start.

Each has one data thread, backend connections that are kept alive, and no access log. Counters and
health checks are on where the product has them. The kernel is as it comes.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


class Server:
    """A child process that listens, pinned to one CPU; ended by its own pid."""

    def __init__(self, name, folder, cpu):
        self.name = name
        self.folder = folder / name.replace("/", "_")
        self.folder.mkdir()
        self.cpu = cpu
        self.ports = {}
        self.process = None

    def start(self, command):
        log = open(self.folder / "output.log", "wb")
        self.process = subprocess.Popen(
            ["taskset", "-c", str(self.cpu), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
        )
        for port in self.ports.values():
            self.wait_for(port)

    def wait_for(self, port):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        said = (self.folder / "output.log").read_text(errors="replace")
        raise RuntimeError(f"{self.name} does not listen on port {port}; it said:\n{said}")

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def url(self, workload):
        return f"http://127.0.0.1:{self.ports[workload.mode]}{workload.path}"

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def serves(self, workload):
        return workload.mode in self.ports

    def version(self):
        raise NotImplementedError


class Backend(Server):
    """Debian's nginx with answers from memory."""

    def __init__(self, folder, cpu):
        super().__init__("backend", folder, cpu)
        self.ports = {"http": free_port()}
        kibibyte = "0123456789abcdef" * 64
        config = self.write("nginx.conf", NGINX_HEAD + f"""
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {{
        listen 127.0.0.1:{self.ports["http"]} backlog=4096;
        set $k "{kibibyte}";
        location = /small {{ return 200 "hello, world\\n"; }}
        location = /10k {{ return 200 "{"$k" * 10}"; }}
    }}
}}
""")
        self.start(nginx(self.folder, config))


class Evenkeel(Server):
    def __init__(self, name, binary, folder, cpu, backend):
        super().__init__(name, folder, cpu)
        self.binary = binary
        self.ports = {"http": free_port(), "tcp": free_port()}
        address = f"127.0.0.1:{backend.ports['http']}"
        config = self.write("evenkeel.yaml", f"""
workers: 1
admin: {{listen: "127.0.0.1:{free_port()}"}}
listeners:
  http: {{bind: "127.0.0.1:{self.ports["http"]}", mode: http, routes: [{{pool: web}}]}}
  tcp: {{bind: "127.0.0.1:{self.ports["tcp"]}", mode: tcp, pool: web}}
pools:
  web:
    backends: ["{address}"]
    health_check: {{http: {{path: /small}}, interval: 2s}}
""")
        self.start([binary, "run", "--config", config])

    def version(self):
        return first_line([self.binary, "--version"])


class Haproxy(Server):
    def __init__(self, folder, cpu, backend):
        super().__init__("haproxy", folder, cpu)
        self.ports = {"http": free_port(), "tcp": free_port()}
        address = f"127.0.0.1:{backend.ports['http']}"
        config = self.write("haproxy.cfg", f"""
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 60s
    http-reuse always
    balance leastconn
frontend http
    bind 127.0.0.1:{self.ports["http"]}
    default_backend web
frontend tcp
    mode tcp
    bind 127.0.0.1:{self.ports["tcp"]}
    default_backend stream
backend web
    option httpchk GET /small
    server one {address} check inter 2s pool-max-conn -1
backend stream
    mode tcp
    server one {address} check inter 2s
""")
        self.start([shutil.which("haproxy"), "-db", "-f", config])

    def version(self):
        return first_line(["haproxy", "-v"])


class Nginx(Server):
    """TCP only where its stream module is installed (Debian: libnginx-mod-stream)."""

    def __init__(self, folder, cpu, backend):
        super().__init__("nginx", folder, cpu)
        self.ports = {"http": free_port()}
        address = f"127.0.0.1:{backend.ports['http']}"
        stream_module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        load = stream = ""
        if stream_module.exists():
            self.ports["tcp"] = free_port()
            load = f"load_module {stream_module};"
            stream = f"""
stream {{
    access_log off;
    server {{ listen 127.0.0.1:{self.ports["tcp"]}; proxy_pass {address}; }}
}}
"""
        config = self.write("nginx.conf", load + NGINX_HEAD + f"""
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    upstream web {{
        server {address};
        keepalive 128;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{self.ports["http"]};
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
{stream}
""")
        self.start(nginx(self.folder, config))

    def version(self):
        return first_line(["nginx", "-v"])


NGINX_HEAD = """
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr warn;
"""


def nginx(folder, config):
    for kind in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
        (folder / kind).mkdir()
    paths = "".join(
        f"{module}_temp_path {folder}/{kind};"
        for module, kind in [
            ("client_body", "body"),
            ("proxy", "proxy"),
            ("fastcgi", "fastcgi"),
            ("uwsgi", "uwsgi"),
            ("scgi", "scgi"),
        ]
    )
    config.write_text(config.read_text().replace("http {", "http { " + paths, 1))
    return [shutil.which("nginx"), "-p", folder, "-c", config]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def first_line(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.splitlines()[0]
