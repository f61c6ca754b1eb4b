"""When what breaks: the schedules, a fault a line. Knows nothing of products, clients or processes.

Backends a, b, c and d are the active tier, s stands by. The last column says whether the health
check of a sick backend `lies` (says all is well) or is `honest` (fares as every request does); `-`
where there is nothing to choose, as nothing answers at all.
"""

import random
from dataclasses import dataclass, replace

ACTIVE = "abcd"
STANDBY = "s"

KINDS = {
    "kill": "SIGKILL: connections break off, new ones are refused; started again",
    "freeze": "SIGSTOP: the kernel goes on accepting, nobody answers; SIGCONT",
    "reset": "reads each request, executes it and resets the connection",
    "slow": "answers after 2 to 3 s",
    "truncate": "declares the whole length, sends half of it and closes",
    "garbage": "answers with what is not HTTP",
    "503": "answers 503",
    "flap": "listens 200 ms, resets everything and refuses 200 ms, and so on",
    "blackhole": "listens, but never accepts, and reads nothing more of what is open",
    "stall": "sends the head and half of the body, and then nothing",
}
SILENT = ("kill", "freeze", "flap", "blackhole")

# The eight kinds of the comparison: one backend at a time, and at the end half of the tier at once.
EIGHT = """
    # from   to    what      whom  health check
       2.0   5.0   kill      b     -
       8.0  11.0   freeze    c     -
      14.0  17.0   reset     a     lies
      20.0  23.0   slow      d     lies
      26.0  29.0   truncate  b     lies
      32.0  35.0   garbage   c     honest
      38.0  41.0   503       a     lies
      44.0  47.0   kill      bd    -
    # 50.0   end
"""

# Harder: half of a tier, the whole tier, the standby just after the tier is back, tier by tier.
TIERS = """
    # from   to    what      whom  health check
       2.0   5.0   kill      ac    -
       8.0  11.0   freeze    bd    -
      14.0  17.0   kill      abcd  -
      20.0  22.0   kill      s     -
      25.0  28.0   freeze    abcd  -
      31.0  33.0   freeze    s     -
      36.0  39.0   503       abcd  lies
      42.0  45.0   flap      ab    -
      47.0  49.0   blackhole abcd  -
    # 52.0   end
"""

REST = 3.0  # seconds between two faults, and after the last


@dataclass(frozen=True)
class Fault:
    start: float  # seconds since the load began
    end: float
    kind: str
    whom: str
    lies: bool

    def title(self):
        return f"{self.kind} {self.whom}" if self.kind in SILENT or self.lies else (
            f"{self.kind} {self.whom}, honest"
        )


def parse(text):
    faults = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        start, end, kind, whom, health = words
        fault = Fault(float(start), float(end), kind, whom, health == "lies")
        known = set(whom) <= set(ACTIVE + STANDBY) and kind in KINDS
        silent = (health == "-") == (kind in SILENT) and health in ("-", "lies", "honest")
        later = not faults or fault.start >= faults[-1].end
        if not known or not silent or not later or fault.end <= fault.start:
            raise ValueError(f"not a line of a schedule: {line.strip()}")
        faults.append(fault)
    return faults


def drawn(seed, seconds=60.0):
    """Any kind, on one backend or two of the active tier, or the standby; for 0.5 to 5 s."""
    dice = random.Random(seed)
    faults, at = [], 2.0
    while True:
        length = round(dice.uniform(0.5, 5.0), 1)
        if at + length + REST > seconds:
            return faults
        kind = dice.choice(sorted(KINDS))
        whom = STANDBY if dice.random() < 0.1 else "".join(
            sorted(dice.sample(ACTIVE, dice.choice([1, 1, 2])))
        )
        lies = kind not in SILENT and dice.random() < 0.5
        faults.append(Fault(round(at, 1), round(at + length, 1), kind, whom, lies))
        at += length + dice.uniform(0.3, REST)


def with_health(fault, lies):
    """The same, but what its backends do with health checks, if they answer at all."""
    return fault if fault.kind in SILENT else replace(fault, lies=lies)


def seconds(faults):
    """How long the load lasts."""
    return faults[-1].end + REST


def table(faults):
    """As `parse` reads it."""
    lines = ["    # from   to    what      whom  health check"]
    for fault in faults:
        health = "-" if fault.kind in SILENT else "lies" if fault.lies else "honest"
        lines.append(
            f"      {fault.start:4.1f}  {fault.end:4.1f}   {fault.kind:9} {fault.whom:5} {health}"
        )
    return "\n".join(lines)
