#!/usr/bin/env python3
"""The clients: client.py JSON, where JSON is a `Load`. Says that it is ready, reads when to begin
(monotonic seconds, the same clock in every process), and prints a line of JSON, a `Seen`.

Each user has one kept-alive connection, asks either GETs or POSTs, and asks at fixed times. What
comes due while an answer is waited for is left out, as a user does not ask twice. Every answer is
checked whole: status, length, echoed id, content. Nothing is ever sent again.
"""

import asyncio
import dataclasses
import json
import resource
import sys
from dataclasses import dataclass

import wire


@dataclass(frozen=True)
class Load:
    host: str
    port: int
    seconds: float
    readers: int  # users that send GETs, numbered from 0
    read_every: float  # seconds between two requests of one of them
    writers: int  # users that send POSTs, numbered from there
    write_every: float
    timeout: float  # seconds from asking to the end of the answer
    part: int = 0  # this process has the users part, part + parts, part + 2 x parts ...
    parts: int = 1


@dataclass
class Seen:
    # (user, id, method, asked, answered, what went wrong or ""), in seconds since the beginning.
    asked: list
    late: list  # seconds that a request was sent after it was due, though its user was free
    cpu: float


class Failed(Exception):
    """An answer that is not good; says how."""


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, loop):
        self.loop = loop
        self.transport = None
        self.waiting = None
        self.data = b""
        self.ident = b""
        self.usable = True

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, request, ident):
        self.data, self.ident = b"", ident
        self.waiting = self.loop.create_future()
        self.transport.write(request)
        return self.waiting

    def data_received(self, data):
        if self.waiting is None:
            return self.close()  # nobody asked
        self.data += data
        verdict, close = wire.judge(self.data, self.ident)
        if verdict is None:
            return
        if close:
            self.close()
        self.end(verdict)

    def connection_lost(self, why):
        self.usable = False
        if self.data:
            self.end("truncated")
        else:
            self.end("reset" if isinstance(why, ConnectionError) else "closed")

    def end(self, verdict):
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(verdict)
        self.waiting = None

    def close(self):
        self.usable = False
        self.transport.abort()


class User:
    def __init__(self, load, begin, number, seen):
        self.begin = begin
        self.loop = asyncio.get_running_loop()
        self.load = load
        self.number = number
        self.seen = seen
        self.connection = None

    async def live(self):
        load = self.load
        writes = self.number >= load.readers
        method = "POST" if writes else "GET"
        every = load.write_every if writes else load.read_every
        due = self.begin + every * self.number / (load.readers + load.writers)
        for count in range(10**9):
            if due >= self.begin + load.seconds:
                return
            await asyncio.sleep(due - self.loop.time())
            self.seen.late.append(round(self.loop.time() - due, 5))
            await self.ask(method, f"{self.number}-{count}")
            free = self.loop.time()
            due += every
            if due < free:
                due += ((free - due) // every + 1) * every

    async def ask(self, method, ident):
        start = self.loop.time()
        try:
            async with asyncio.timeout_at(start + self.load.timeout):
                verdict = await self.answer(method, ident)
        except TimeoutError:
            verdict = "timeout"
        except ConnectionRefusedError:
            verdict = "refused"
        except OSError:
            verdict = "reset"
        if verdict:
            self.drop()
        times = round(start - self.begin, 5), round(self.loop.time() - self.begin, 5)
        self.seen.asked.append((self.number, ident, method, *times, verdict))

    async def answer(self, method, ident):
        if self.connection is None or not self.connection.usable:
            where = self.load.host, self.load.port
            made = self.loop.create_connection(lambda: Connection(self.loop), *where)
            _, self.connection = await made
        request = wire.request(method, ident, "localhost")
        return await self.connection.ask(request, ident.encode())

    def drop(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


async def run(load, begin):
    seen = Seen(asked=[], late=[], cpu=0.0)
    numbers = range(load.part, load.readers + load.writers, load.parts)
    users = [User(load, begin, number, seen) for number in numbers]
    async with asyncio.TaskGroup() as all_of_them:
        for user in users:
            all_of_them.create_task(user.live())
    for user in users:
        user.drop()
    used = resource.getrusage(resource.RUSAGE_SELF)
    seen.cpu = used.ru_utime + used.ru_stime
    return seen


if __name__ == "__main__":
    print("ready", flush=True)
    asked = asyncio.run(run(Load(**json.loads(sys.argv[1])), float(sys.stdin.readline())))
    print(json.dumps(dataclasses.asdict(asked)), flush=True)
