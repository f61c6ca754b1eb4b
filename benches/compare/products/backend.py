"""The backend behind them all: Debian's nginx with small answers from memory, large ones by sendfile."""

import re
import shutil
import socket
from pathlib import Path

from . import nginx
from .server import Server, free_port


class Backend(Server):
    program = "nginx"
    get = nginx.Nginx.get

    def __init__(self, folder, cpu, everywhere=False):
        """`everywhere`: on all of 127.0.0.0/8, so that one process stands for many backends."""
        super().__init__("backend", folder, cpu)
        port = free_port()
        self.ports = {"http": port}
        self.address = f"127.0.0.1:{port}"
        (self.folder / "100k").write_bytes(b"0123456789abcdef" * 6400)
        (self.folder / "1m").write_bytes(b"0123456789abcdef" * 65_536)
        (self.folder / "10m").write_bytes(b"0123456789abcdef" * 655_360)
        kibibyte = "0123456789abcdef" * 64
        # Loopback cannot be bound as a whole; so all is bound, and all but loopback is refused.
        listen = f"listen {'0.0.0.0' if everywhere else '127.0.0.1'}:{port} backlog=4096;"
        config = self.write("nginx.conf", nginx.HEAD + f"""
http {{
    {nginx.temporary(self.folder)}
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    sendfile on;
    open_file_cache max=16;
    open_file_cache_valid 1h;
    server {{
        {listen}
        allow 127.0.0.0/8;
        deny all;
        root {self.folder};
        set $k "{kibibyte}";
        location = /status {{ stub_status; }}
        location = /small {{ return 200 "hello, world\\n"; }}
        location = /10k {{ return 200 "{"$k" * 10}"; }}
    }}
}}
""")
        self.start(nginx.command(shutil.which("nginx"), self.folder, config))

    def requests(self):
        """So many has it answered, this one included."""
        return int(re.search(r"requests\s+\d+ \d+ (\d+)", self.status())[1])

    def open_connections(self):
        return int(re.search(r"Active connections: (\d+)", self.status())[1])

    def status(self):
        ask = b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.ports["http"]), timeout=10) as client:
            client.sendall(ask)
            text = b""
            while some := client.recv(4096):
                text += some
        return text.decode()


def folder_in_memory():
    """Where temporary files cost no disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
