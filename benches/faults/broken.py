#!/usr/bin/env python3
"""A product that sins, for the self-test: broken.py ADDRESS PORT NAME LEDGER, as `backend.py`.

Fails by the last digit of an id; of three POSTs it executes one twice and one never.
"""

import asyncio
import sys

import backend

# By the last digit: how it answers, and what a client must call that.
SINS = {
    1: ("503", "status 503"),
    2: ("truncate", "truncated"),
    3: ("garbage", "garbage"),
    4: ("reset", "reset"),
    5: ("stall", "timeout"),
    6: ("ok", "wrong content"),  # to another id
}


class Broken(backend.Backend):
    def plan(self, ident):
        sin = number(ident.decode()) % 10
        mode, _ = SINS.get(sin, ("ok", ""))
        return mode, b"another-" + ident if sin == 6 else ident

    def execute(self, ident):
        for _ in range(executions(ident.decode())):
            super().execute(ident)


def number(ident):
    return int(ident.rpartition("-")[2])


def seen(ident):
    return SINS.get(number(ident) % 10, ("ok", ""))[1]


def executions(ident):
    return (2, 0, 1)[number(ident) % 3]


if __name__ == "__main__":
    asyncio.run(backend.serve(*sys.argv[1:], kind=Broken))
