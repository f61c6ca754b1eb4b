"""A child process that listens, pinned to one CPU; ended by its own pid."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

# Whose certificate it is was not asked.
anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
anyone.check_hostname = False
anyone.verify_mode = ssl.CERT_NONE


class Server:
    # Of a peer: the program's file name, and how to get it where it is missing.
    kind = program = get = None

    def __init__(self, name, folder, cpu):
        self.name = name
        self.folder = fresh_folder(folder, name)
        self.cpu = cpu
        self.ports = {}
        self.process = None

    def start(self, command, **environment):
        with open(self.folder / "output.log", "wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", self.cpu_list(), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | environment,
            )
        try:
            for mode, port in self.ports.items():
                self.wait_for(port, mode == "tls")
        except BaseException:
            self.stop()
            raise

    def cpu_list(self):
        return str(self.cpu)

    def wait_for(self, port, tls=False):
        """Until a request comes back answered: some listen before they know their routes."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            if answers(port, tls):
                return
            time.sleep(0.02)
        said = (self.folder / "output.log").read_text(errors="replace")
        raise RuntimeError(f"{self.name} does not answer on port {port}; it said:\n{said}")

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def url(self, workload):
        scheme = "https" if workload.mode == "tls" else "http"
        return f"{scheme}://127.0.0.1:{self.ports[workload.mode]}{workload.path}"

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def serves(self, workload):
        return workload.mode in self.ports

    def version(self):
        raise NotImplementedError


def answers(port, tls=False):
    ask = b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            if tls:
                client = anyone.wrap_socket(client)
            client.sendall(ask)
            return client.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def found(kind, peers):
    """The program of a peer: in the folder that get-peers made, or on the PATH."""
    in_folder = peers / "bin" / kind.program if peers else None
    if in_folder and os.access(in_folder, os.X_OK):
        return in_folder
    return shutil.which(kind.program)


def fresh_folder(folder, name):
    for number in range(1000):
        path = Path(folder) / f"{name.replace('/', '_')}-{number}"
        if not path.exists():
            path.mkdir()
            return path
    raise RuntimeError(f"too many folders for {name}")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def first_line(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return next((line for line in done.stdout.splitlines() if line.strip()), "?").strip()
