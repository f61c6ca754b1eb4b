"""How long a client has to wait at the worst while something happens to the product."""

import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit


def waits(url, seconds, happen=(), every=1.0):
    """The milliseconds of each request of one that asks back to back, each on the same connection.

    Meanwhile calls what is in `happen` in turn, `every` so many seconds: each must return at once.
    """
    where = urlsplit(url)
    request = f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode()
    events = list(happen)
    taken = []
    begin = now = time.monotonic()
    with socket.create_connection((where.hostname, where.port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while now < begin + seconds:
            if events and now >= begin + every * (len(happen) - len(events) + 0.5):
                events.pop(0)()
                now = time.monotonic()
            client.sendall(request)
            answer = b""
            while not answer.endswith(b"hello, world\n"):
                some = client.recv(4096)
                if not some or not (answer + some).startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(f"{url}: a wrong answer: {(answer + some)!r}")
                answer += some
            before, now = now, time.monotonic()
            taken.append((now - before) * 1e3)
    return sorted(taken)


def metric(port, name):
    """The value of a metric without labels, or None."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = b""
        while some := client.recv(1 << 16):
            text += some
        for line in text.decode(errors="replace").splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
    return None
