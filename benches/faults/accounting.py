"""From what the clients saw and the backends executed to figures. No input or output, no clock.

All times are seconds since the load began. An answer belongs to the latest fault that had begun
when it ended, failed or not: what a fault leaves behind (connections that are still bad, a backend
that is back too soon or too late) is charged to it until the next begins.
"""

from collections import Counter
from dataclasses import dataclass

# A request counts as inside a fault up to so long after it was mended.
AFTERMATH = 0.5


@dataclass(frozen=True)
class Asked:
    user: int
    ident: str
    method: str
    start: float
    end: float
    wrong: str  # "" for a good answer


@dataclass(frozen=True)
class Figures:
    gets: int
    posts: int
    failed: list  # of Asked: GETs, then POSTs, each in the order of their ends
    by_fault: list  # of ByFault, one a fault; the first is what came before any
    duplicates: list  # ids executed more than once
    lost: list  # ids of POSTs answered well that no backend executed
    gap: float  # longest time without any good answer to a GET
    user_gap: float  # longest time that one user's GETs went without one
    p99_inside: float
    p99_outside: float

    def failed_of(self, method):
        return [asked for asked in self.failed if asked.method == method]


@dataclass(frozen=True)
class ByFault:
    failed: Counter  # what went wrong, of GETs
    failed_posts: Counter
    gap: float
    user_gap: float
    slowest: float  # GET


def figures(asked, executed, faults, seconds):
    """`executed`: how often, by id. `seconds`: how long the load lasted."""
    asked = sorted(asked, key=lambda each: each.end)
    good = [each for each in asked if not each.wrong]
    gets = [each for each in asked if each.method == "GET"]
    posts = [each for each in asked if each.method == "POST"]
    gaps = between([each.end for each in good if each.method == "GET"], seconds)
    user_gaps = []
    ends = {each.user: [] for each in gets}
    for each in good:
        if each.method == "GET":
            ends[each.user].append(each.end)
    for times in ends.values():
        user_gaps += between(times, seconds)
    inside = [each.end - each.start for each in gets if is_inside(each, faults)]
    outside = [each.end - each.start for each in gets if not is_inside(each, faults)]
    return Figures(
        gets=len(gets),
        posts=len(posts),
        failed=[each for each in gets + posts if each.wrong],
        by_fault=by_fault(asked, gaps, user_gaps, faults),
        duplicates=sorted(ident for ident, times in executed.items() if times > 1),
        lost=sorted(each.ident for each in posts if not each.wrong and not executed[each.ident]),
        gap=longest(gaps),
        user_gap=longest(user_gaps),
        p99_inside=share(inside, 0.99),
        p99_outside=share(outside, 0.99),
    )


def by_fault(asked, gaps, user_gaps, faults):
    failed = [Counter() for _ in range(len(faults) + 1)]
    failed_posts = [Counter() for _ in range(len(faults) + 1)]
    slowest = [0.0] * (len(faults) + 1)
    for each in asked:
        number = charged_to(each.end, faults)
        if each.wrong:
            (failed if each.method == "GET" else failed_posts)[number][each.wrong] += 1
        if each.method == "GET":
            slowest[number] = max(slowest[number], each.end - each.start)
    gap, user_gap = (worst_by_fault(each, faults) for each in (gaps, user_gaps))
    return [
        ByFault(failed[n], failed_posts[n], gap[n], user_gap[n], slowest[n])
        for n in range(len(faults) + 1)
    ]


def worst_by_fault(gaps, faults):
    """The longest, where a gap belongs to the period (a fault and what follows it) that most of it
    lies in."""
    starts = [0.0, *(fault.start for fault in faults)]
    ends = [*starts[1:], float("inf")]
    worst = [0.0] * len(starts)
    for begin, end in gaps:
        first, last = charged_to(begin, faults), charged_to(end, faults)
        most = max(range(first, last + 1), key=lambda n: min(end, ends[n]) - max(begin, starts[n]))
        worst[most] = max(worst[most], end - begin)
    return worst


def charged_to(when, faults):
    """The number of the latest fault that had begun, from 1; 0 if none had."""
    return sum(fault.start <= when for fault in faults)


def is_inside(asked, faults):
    return any(
        asked.start <= fault.end + AFTERMATH and asked.end >= fault.start for fault in faults
    )


def between(times, seconds):
    """The intervals without any of these times, from the beginning to the end of the load."""
    edges = [0.0, *times, max(seconds, times[-1] if times else 0.0)]
    return list(zip(edges, edges[1:]))


def longest(intervals):
    return max((b - a for a, b in intervals), default=0.0)


def share(values, part):
    """The value that `part` of all do not exceed; 0 without values."""
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
