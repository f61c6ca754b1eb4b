"""What a good answer is: made by the backends, checked by the clients. No input or output here.

The content follows from the request's id, so that an answer that belongs to another request, is cut
short or is changed shows.
"""

import re

HEAD_END = b"\r\n\r\n"
MOST_HEAD = 64 * 1024
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*(\d+)")
ECHO = re.compile(rb"(?i)\r\nx-id:[ \t]*([^\r]*)")
CLOSE = re.compile(rb"(?i)\r\nconnection:[ \t]*close")

# One answer in eight is larger than what comes in one read, and none is too large to be held back.
LENGTHS = (200, 300, 500, 700, 1000, 1500, 2500, 30_000)


def content(ident):
    """`ident`: bytes that end with a number, which decides the length."""
    number = int(ident.rpartition(b"-")[2] or 0) if ident[-1:].isdigit() else 0
    length = LENGTHS[number % len(LENGTHS)]
    line = ident + b"\n"
    return (line * (length // len(line) + 1))[:length]


def request(method, ident, host):
    head = f"{method} /item/{ident} HTTP/1.1\r\nHost: {host}\r\n"
    body = ""
    if method == "POST":
        body = f"please do {ident}\n"
        head += f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n{body}".encode()


def answer(ident, who, status=b"200 OK"):
    body = content(ident)
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\nX-Id: %b\r\nX-Backend: %b\r\n\r\n%b" % (
        status, len(body), ident, who, body,
    )


def judge(data, ident):
    """`(verdict, close)` of what came so far: None while more is needed, "" for a good answer, else
    what is wrong with it. `close`: no further request over this connection."""
    head_end = data.find(HEAD_END)
    if not STATUS.match(data) and (head_end >= 0 or len(data) > 16):
        return "garbage", True
    if head_end < 0:
        return ("garbage", True) if len(data) > MOST_HEAD else (None, False)
    head = bytes(data[: head_end + 2])
    status = STATUS.match(head)[1]
    if status != b"200":
        return f"status {status.decode()}", True
    length = LENGTH.search(head)
    if not length:
        return "no length", True
    body = data[head_end + 4 :]
    if len(body) < int(length[1]):
        return None, False
    echo = ECHO.search(head)
    if body != content(ident) or not echo or echo[1] != ident:
        return "wrong content", True
    return "", bool(CLOSE.search(head))
