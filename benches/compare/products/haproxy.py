"""haproxy: Debian's, or any build by `--haproxy NAME=PATH`.

It splices what is large through pipes of 1 MiB: `splice-auto` alone never does for HTTP in 2.6, and
the kernel's default pipe of 64 KiB costs twice as much CPU. Small answers cost the same either way.
"""

import subprocess

from . import certificate
from .server import Server, first_line, free_port


class Haproxy(Server):
    kind = program = "haproxy"
    get = "On Debian: apt-get install haproxy"

    def __init__(self, name, binary, folder, cpu, backend):
        super().__init__(name, folder, cpu)
        self.binary = binary
        self.ports = {"http": free_port(), "tcp": free_port()}
        tls = ""
        if "+OPENSSL" in everything_about(binary):
            pem = certificate.in_one_file(folder)
            self.ports["tls"] = free_port()
            tls = f"""
frontend tls
    bind 127.0.0.1:{self.ports["tls"]} backlog 4096 ssl crt {pem} alpn h2,http/1.1
    default_backend web
"""
        config = self.write("haproxy.cfg", f"""
global
    nbthread 1
    maxconn 9500
    maxpipes 128
    tune.pipesize 1048576
    tune.idle-pool.shared on
defaults
    mode http
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout http-request 10s
    timeout http-keep-alive 1h
    option splice-auto
    option splice-response
    http-reuse always
    balance leastconn
frontend http
    bind 127.0.0.1:{self.ports["http"]} backlog 4096
    default_backend web
frontend tcp
    mode tcp
    bind 127.0.0.1:{self.ports["tcp"]} backlog 4096
    default_backend stream
backend web
    option httpchk GET /small
    server one {backend.address} check inter 2s pool-max-conn -1 pool-purge-delay 1h
backend stream
    mode tcp
    server one {backend.address} check inter 2s
{tls}
""")
        self.start([binary, "-db", "-f", config])

    def version(self):
        return first_line([self.binary, "-v"])


def everything_about(binary):
    return subprocess.run([binary, "-vv"], capture_output=True, text=True).stdout
