"""Markdown, ready for docs/failover-measured.md."""

from statistics import mean

import accounting


def line(name, done):
    """As soon as a round is over."""
    figures = done.figures
    return (
        f"{name}, {done.version}: {len(figures.failed_of('GET'))} of {figures.gets} GETs failed, "
        f"{len(figures.failed_of('POST'))} of {figures.posts} POSTs, "
        f"{len(figures.duplicates)} executed twice, {len(figures.lost)} acknowledged and lost; "
        f"longest gap {figures.gap:.2f} s, of one user {figures.user_gap:.2f} s. CPU: "
        f"{done.cpu:.1f} s, clients {done.clients_cpu:.1f} s, backends {done.backends_cpu:.1f} s; "
        f"99 % of the requests were sent within {done.late * 1e3:.1f} ms of their time."
    )


def tables(results, faults):
    """`results`: the rounds by product. Sums over them; the worst of gaps and p99."""
    print("\n### By product\n")
    print("| product | GETs | failed | POSTs | failed | executed twice | acknowledged, lost "
          "| longest gap s | of one user s | p99 ms outside | p99 ms inside | CPU s |")
    print("| --- |" + " ---: |" * 11)
    for name, rounds in results.items():
        if rounds:
            print(f"| {name} | " + " | ".join(cells(rounds)) + " |")
    for title, cell in (
        ("Failed GETs by fault", failed_cell),
        ("Failed POSTs by fault", failed_posts_cell),
        ("Longest gap of all users / of one user, s", gap_cell),
        ("Slowest GET, s", lambda parts: f"{max(part.slowest for part in parts):.2f}"),
    ):
        print(f"\n### {title}\n")
        print("| fault |", " | ".join(results), "|")
        print("| --- |" + " ---: |" * len(results))
        for number, title in enumerate(["before any", *(fault.title() for fault in faults)]):
            row = [
                cell([done.figures.by_fault[number] for done in rounds])
                for rounds in results.values()
            ]
            print(f"| {title} |", " | ".join(row), "|", flush=True)


def cells(rounds):
    figures = [done.figures for done in rounds]
    return [
        str(sum(each.gets for each in figures)),
        str(sum(len(each.failed_of("GET")) for each in figures)),
        str(sum(each.posts for each in figures)),
        str(sum(len(each.failed_of("POST")) for each in figures)),
        str(sum(len(each.duplicates) for each in figures)),
        str(sum(len(each.lost) for each in figures)),
        f"{max(each.gap for each in figures):.2f}",
        f"{max(each.user_gap for each in figures):.2f}",
        f"{max(each.p99_outside for each in figures) * 1e3:.1f}",
        f"{max(each.p99_inside for each in figures) * 1e3:.1f}",
        f"{mean(done.cpu for done in rounds):.1f}",
    ]


def failed_cell(parts):
    return counted(part.failed for part in parts)


def failed_posts_cell(parts):
    return counted(part.failed_posts for part in parts)


def counted(counters):
    """`12: 9 timeout, 3 status 502`; `0` for none."""
    total = accounting.Counter()
    for counter in counters:
        total.update(counter)
    kinds = ", ".join(f"{times} {what}" for what, times in total.most_common())
    return f"{total.total()}: {kinds}" if kinds else "0"


def gap_cell(parts):
    gap, user_gap = max(part.gap for part in parts), max(part.user_gap for part in parts)
    return f"{gap:.2f} / {user_gap:.2f}"


def failures(figures, faults):
    """One a line: when, how long it took, what went wrong, whose request, in which fault."""
    lines = []
    for each in figures.failed:
        number = accounting.charged_to(each.end, faults)
        fault = faults[number - 1].title() if number else "before any"
        lines.append(
            f"{each.start:8.3f} {each.end - each.start:7.3f} {each.method:4} {each.wrong:12} "
            f"{each.ident:9} {fault}"
        )
    lines += [f"executed twice: {ident}" for ident in figures.duplicates]
    lines += [f"acknowledged and lost: {ident}" for ident in figures.lost]
    return "\n".join(lines) + "\n"
