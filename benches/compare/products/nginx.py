"""Debian's nginx. TCP only where its stream module is installed (libnginx-mod-stream)."""

from pathlib import Path

from . import certificate
from .server import Server, first_line, free_port

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Nginx(Server):
    kind = program = "nginx"
    get = "On Debian: apt-get install nginx-light libnginx-mod-stream"

    def __init__(self, name, binary, folder, cpu, backend):
        super().__init__(name, folder, cpu)
        self.binary = binary
        self.ports = {"http": free_port(), "tls": free_port()}
        cert, key = certificate.pair(folder)
        load = stream = ""
        if STREAM_MODULE.exists():
            self.ports["tcp"] = free_port()
            load = f"load_module {STREAM_MODULE};"
            stream = f"""
stream {{
    access_log off;
    proxy_buffer_size 256k;
    server {{ listen 127.0.0.1:{self.ports["tcp"]} backlog=4096; proxy_pass {backend.address}; }}
}}
"""
        config = self.write("nginx.conf", load + HEAD + f"""
http {{
    {temporary(self.folder)}
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    upstream web {{
        server {backend.address};
        keepalive 10000;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{self.ports["http"]} backlog=4096;
        listen 127.0.0.1:{self.ports["tls"]} backlog=4096 ssl http2;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:tls:10m;
        ssl_buffer_size 16k;
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # Cheapest for large answers, and no dearer for small ones: straight through one buffer.
            proxy_buffering off;
            proxy_buffer_size 256k;
            proxy_busy_buffers_size 256k;
            proxy_buffers 8 256k;
        }}
    }}
}}
{stream}
""")
        self.start(command(binary, self.folder, config))

    def version(self):
        return first_line([self.binary, "-v"])


HEAD = """
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr crit;
events { worker_connections 19500; }
"""


def temporary(folder):
    """Debian's build would write under /var otherwise."""
    kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    return " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


def command(binary, folder, config):
    return [binary, "-p", folder, "-c", config]
