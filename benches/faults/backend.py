#!/usr/bin/env python3
"""One backend: backend.py ADDRESS PORT NAME LEDGER

Answers /healthz, and everything else by the id at the end of the path. Writes the id of each POST
that it has read whole to LEDGER before it does anything else: that is what "executed" means,
however the answer ends. How to behave comes over standard input, a line a command: `ok`, or a kind
of fault that a process can do to itself, followed by `lies` or `honest`. Ends with its standard
input.
"""

import asyncio
import os
import random
import socket
import struct
import sys

import wire

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
FLAP_SECONDS = 0.2
SLOW_SECONDS = (2.0, 3.0)
BACKLOG = 128


class Backend:
    def __init__(self, loop, address, name, ledger):
        self.loop = loop
        self.address = address
        self.name = name.encode()
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.mode = "ok"
        self.lies = False
        self.connections = set()
        self.listening = None
        self.beat = None
        self.dice = random.Random(name)

    def listen(self):
        self.listening = socket.socket()
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listening.bind(self.address)
        self.listening.listen(BACKLOG)
        self.listening.setblocking(False)
        self.loop.add_reader(self.listening, self.accept)

    def accept(self):
        try:
            client, _ = self.listening.accept()
        except OSError:
            return
        made = self.loop.connect_accepted_socket(lambda: Connection(self), client)
        self.loop.create_task(made)

    def vanish(self):
        self.loop.remove_reader(self.listening)
        self.listening.close()
        self.listening = None
        for connection in list(self.connections):
            connection.reset()

    def become(self, mode, lies):
        if self.beat:
            self.beat.cancel()
            self.beat = None
        if self.mode == "blackhole":
            self.loop.add_reader(self.listening, self.accept)
            for connection in self.connections:
                connection.transport.resume_reading()
        if self.mode == "stall":
            for connection in list(self.connections):
                if connection.stalled:
                    connection.reset()
        self.mode, self.lies = mode, lies
        if self.listening is None:
            self.listen()
        if mode == "flap":
            self.flap()
        if mode == "blackhole":
            self.loop.remove_reader(self.listening)
            for connection in self.connections:
                connection.transport.pause_reading()

    def flap(self):
        if self.listening is None:
            self.listen()
        else:
            self.vanish()
        self.beat = self.loop.call_later(FLAP_SECONDS, self.flap)

    def plan(self, ident):
        """How to answer, and as if which id had been asked."""
        return self.mode, ident

    def execute(self, ident):
        os.write(self.ledger, ident + b"\n")


class Connection(asyncio.Protocol):
    def __init__(self, backend):
        self.backend = backend
        self.transport = None
        self.data = b""
        self.stalled = False

    def connection_made(self, transport):
        self.transport = transport
        self.backend.connections.add(self)

    def connection_lost(self, why):
        self.backend.connections.discard(self)

    def data_received(self, data):
        self.data += data
        while not self.transport.is_closing() and (asked := self.next_request()):
            method, target = asked
            ident = target.rpartition(b"/")[2]
            if method == b"POST":
                self.backend.execute(ident)
            well = target == b"/healthz" and self.backend.lies
            self.answer(*(("ok", ident) if well else self.backend.plan(ident)))

    def next_request(self):
        head, end, rest = self.data.partition(wire.HEAD_END)
        if not end:
            return None
        length = wire.LENGTH.search(head + b"\r\n")
        length = int(length[1]) if length else 0
        if len(rest) < length:
            return None
        self.data = rest[length:]
        return head.split(b" ", 2)[:2]

    def answer(self, mode, ident):
        good = wire.answer(ident, self.backend.name)
        half = good[: len(good) - len(wire.content(ident)) // 2]
        if mode in ("ok", "flap", "blackhole"):
            self.transport.write(good)
        elif mode == "reset":
            self.reset()
        elif mode == "slow":
            wait = self.backend.dice.uniform(*SLOW_SECONDS)
            self.backend.loop.call_later(wait, self.transport.write, good)
        elif mode == "truncate":
            self.transport.write(half)
            self.transport.close()
        elif mode == "garbage":
            self.transport.write(b"\x00\x15\x03 no protocol that you know\n" * 4)
            self.transport.close()
        elif mode == "503":
            self.transport.write(wire.answer(ident, self.backend.name, b"503 Service Unavailable"))
        elif mode == "stall":
            self.stalled = True
            self.transport.write(half)
        else:
            raise ValueError(mode)

    def reset(self):
        raw = self.transport.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()


class Commands(asyncio.Protocol):
    def __init__(self, backend, done):
        self.backend = backend
        self.done = done
        self.data = b""

    def data_received(self, data):
        *lines, self.data = (self.data + data).split(b"\n")
        for line in lines:
            mode, _, health = line.decode().partition(" ")
            self.backend.become(mode, health == "lies")

    def connection_lost(self, why):
        self.done.set()


async def serve(address, port, name, ledger, kind=Backend):
    loop = asyncio.get_running_loop()
    backend = kind(loop, (address, int(port)), name, ledger)
    backend.listen()
    done = asyncio.Event()
    await loop.connect_read_pipe(lambda: Commands(backend, done), sys.stdin)
    print("ready", flush=True)
    await done.wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
