"""Does the comparison tell the truth? Without any product, in some ten seconds: `run --self-test`.

The figures from requests made up by hand; the schedules; each kind of fault as a client meets it
that asks the sick backend itself; a perfect product (a backend that no fault touches), which must
come out flawless; and a broken one, whose every sin must be found and nothing else.
"""

import socket
import tempfile
import threading
from collections import Counter
from pathlib import Path

import accounting
import broken
import rounds
import schedule
import wire
from accounting import Asked
from backends import ADDRESS, Site
from client import Load
from schedule import Fault

# What a client may see of each kind while it lasts, and one of which it must see. The time-out is
# shorter than the faults. What was in progress as one began can fail in the way of a connection.
SEEN = {
    "kill": {"refused", "reset", "closed"},
    "freeze": {"timeout"},
    "reset": {"reset"},
    "slow": {"timeout"},
    "truncate": {"truncated"},
    "garbage": {"garbage"},
    "503": {"status 503"},
    "flap": {"refused", "reset"},
    "blackhole": {"timeout"},
    "stall": {"timeout", "truncated"},
}
# And a busy machine may be late.
ALWAYS = {"reset", "closed", "timeout"}
TIMEOUT = 0.3
FAULT_SECONDS, REST_SECONDS = 0.6, 0.35
PATIENCE = 5.0

def run(folder):
    checks = [sums, schedules, kinds_and_the_perfect, the_broken]
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            check(Path(tempfile.mkdtemp(dir=folder)))
        except AssertionError as error:
            print(f"{name}: {error}")
            return 1
        print(f"{name}: fine", flush=True)
    return 0


def equal(what, found, expected):
    assert found == expected, f"{what}: found {found!r}, expected {expected!r}"


def sums(_):
    faults = [Fault(1.0, 2.0, "kill", "a", False), Fault(5.0, 6.0, "slow", "b", True)]
    asked = [
        Asked(0, "0-0", "GET", 0.1, 0.2, ""),
        Asked(0, "0-1", "GET", 0.9, 1.4, "reset"),  # begun before the fault, failed in it
        Asked(0, "0-2", "GET", 2.2, 2.3, "timeout"),  # after it was mended: still its doing
        Asked(0, "0-3", "GET", 3.4, 3.5, ""),
        Asked(1, "1-0", "GET", 0.3, 0.4, ""),
        Asked(1, "1-1", "GET", 1.0, 4.9, ""),  # 4.5 s after its user's last, mostly in `kill`
        Asked(1, "1-2", "GET", 5.2, 5.6, "truncated"),
        Asked(1, "1-3", "GET", 6.0, 6.1, ""),
        Asked(2, "2-0", "POST", 0.1, 0.2, ""),
        Asked(2, "2-1", "POST", 1.1, 1.2, "closed"),
        Asked(2, "2-2", "POST", 1.3, 1.4, ""),
        Asked(2, "2-3", "POST", 6.9, 7.0, ""),
    ]
    found = accounting.figures(asked, Counter({"2-0": 1, "2-1": 2, "2-2": 1}), faults, 8.0)
    equal("GETs", (found.gets, found.posts), (8, 4))
    failed = [each.ident for each in found.failed_of("GET")]
    equal("failed", failed, ["0-1", "0-2", "1-2"])
    equal("failed POSTs", [each.ident for each in found.failed_of("POST")], ["2-1"])
    by_fault = [dict(each.failed) for each in found.by_fault]
    equal("by fault", by_fault, [{}, {"reset": 1, "timeout": 1}, {"truncated": 1}])
    equal("POSTs by fault", [each.failed_posts.total() for each in found.by_fault], [0, 1, 0])
    equal("duplicates", (found.duplicates, found.lost), (["2-1"], ["2-3"]))
    # 0.4 to 3.5 overall, and of user 0 from 3.5 to the end at 8; POSTs do not count.
    equal("gaps", (round(found.gap, 6), round(found.user_gap, 6)), (3.1, 4.5))
    gaps = [(round(each.gap, 6), round(each.user_gap, 6)) for each in found.by_fault]
    equal("gaps by fault", gaps, [(0.2, 0.4), (3.1, 4.5), (1.9, 4.5)])
    equal("slowest", round(found.by_fault[1].slowest, 6), 3.9)
    equal("p99", (round(found.p99_inside, 6), round(found.p99_outside, 6)), (3.9, 0.1))
    equal("share", accounting.share(range(1, 201), 0.99), 199)


def schedules(_):
    eight = schedule.parse(schedule.EIGHT)
    equal("faults", len(eight), 8)
    kinds = {(each.kind, len(each.whom)) for each in eight}
    equal("kinds", len(kinds), 8)
    equal("seconds", schedule.seconds(eight), 50.0)
    all_of_them = [eight, schedule.parse(schedule.TIERS)]
    all_of_them += [schedule.drawn(seed) for seed in range(200)]
    for faults in all_of_them:
        equal("read again", schedule.parse(schedule.table(faults)), faults)
    for faults in all_of_them[2:]:
        assert faults and max(len(fault.whom) for fault in faults) <= 2, "a tier is always there"
    equal("drawn again", schedule.drawn(7), schedule.drawn(7))
    equal("known", {fault.kind for faults in all_of_them for fault in faults}, set(schedule.KINDS))
    for line in ("1 2 kill e -", "1 2 kill a lies", "1 2 slow a -", "2 1 kill a -", "1 2 melt a -",
                 "1 3 kill a -\n2 4 kill a -"):
        try:
            schedule.parse(line)
        except ValueError:
            continue
        raise AssertionError(f"accepted: {line}")


def load(port, seconds, **others):
    return Load(ADDRESS, port, seconds, **{
        "readers": 10, "read_every": 0.05, "writers": 4, "write_every": 0.05,
    } | others)


def kinds_and_the_perfect(folder):
    """Clients of the sick backend and of one that no fault touches, at the same time."""
    faults, at = [], 0.5
    # Killed last, as a start takes its time on a busy machine.
    for count, kind in enumerate(sorted(schedule.KINDS, key=lambda kind: kind == "kill")):
        lies = kind not in schedule.SILENT and count % 2 == 0
        faults.append(Fault(at, at + FAULT_SECONDS, kind, "a", lies))
        at += FAULT_SECONDS + REST_SECONDS
    seen, healths, seconds = {}, [], at + 1
    with Site(folder, "as") as site:
        sick = load(site.members["a"].port, seconds, timeout=TIMEOUT)
        well = load(site.members["s"].port, seconds, timeout=PATIENCE)

        def ask_the_perfect():
            seen["well"], _ = rounds.under_load(well, lambda begin: None)

        def probe(fault):
            if fault.kind not in schedule.SILENT:
                healths.append((fault, healthy(site.members["a"].port)))

        beside = threading.Thread(target=ask_the_perfect)
        beside.start()
        seen["sick"], faults = rounds.under_load(
            sick, lambda begin: site.play(faults, begin, probe)
        )
        beside.join()
        executed = site.executed()
    # Both loads have the same ids: what each backend executed is told apart by its ledger.
    sick, well = (
        accounting.figures(
            seen[which].asked, Counter(site.members[name].executed()), faults, seconds
        )
        for which, name in (("sick", "a"), ("well", "s"))
    )
    equal("failed of the perfect", well.failed, [])
    equal("executed twice or lost", (well.duplicates, well.lost), ([], []))
    equal("its ledger", Counter(site.members["s"].executed()).total(), well.posts)
    assert well.gets > 1000 and well.posts > 400, f"{well.gets} GETs, {well.posts} POSTs"
    assert executed.total() > well.posts, "the sick one executes, too"
    assert well.user_gap < 1.5, f"a gap of {well.user_gap} s of the perfect"
    equal("twice or lost of the sick", (sick.duplicates, sick.lost), ([], []))
    assert set(sick.by_fault[0].failed) <= {"timeout"}, "nothing fails before the first fault"
    for fault, part in zip(faults, sick.by_fault[1:]):
        for method, failed in (("GET", part.failed), ("POST", part.failed_posts)):
            expected = sum(failed[kind] for kind in SEEN[fault.kind])
            known = set(failed) <= SEEN[fault.kind] | ALWAYS
            said = f"{method} under {fault.title()}: {dict(failed)}"
            assert known and expected > failed.total() / 2, said
        assert part.user_gap > FAULT_SECONDS / 4, f"{fault.title()}: a gap of {part.user_gap} s"
    for fault, good in healths:
        equal(f"health check, {fault.title()}", good, fault.lies)


def healthy(port):
    """One probe of the kind that the products make."""
    with socket.create_connection((ADDRESS, port), timeout=5) as probe:
        probe.settimeout(TIMEOUT)
        probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        try:
            while b"healthz\n" not in answer and (some := probe.recv(4096)):
                answer += some
        except OSError:
            return False
    return answer.startswith(b"HTTP/1.1 200") and answer.endswith(wire.content(b"healthz"))


def the_broken(folder):
    with Site(folder, "a", Path(broken.__file__)) as site:
        sinners = load(site.members["a"].port, 4.0, timeout=1.0)
        asked = rounds.under_load(sinners, lambda begin: None)[0].asked
        found = accounting.figures(asked, site.executed(), [], 4.0)
    assert found.gets > 150 and found.posts > 50, f"{found.gets} GETs, {found.posts} POSTs"
    for each in asked:
        equal(f"{each.method} {each.ident}", each.wrong, broken.seen(each.ident))
    posts = [each for each in asked if each.method == "POST"]
    twice = sorted(each.ident for each in posts if broken.executions(each.ident) == 2)
    never = [each for each in posts if broken.executions(each.ident) == 0]
    lost = sorted(each.ident for each in never if not each.wrong)
    equal("executed twice", found.duplicates, twice)
    equal("acknowledged, lost", found.lost, lost)
