"""Markdown, ready for docs/performance.md. The best peer of a workload is the one that costs least."""

from statistics import median


def workload_table(workload, rounds, peers):
    """`rounds`: those of each product by name, in the order in which they took turns."""
    cost, scale = workload.cost
    digits = 2 if scale < 1 else 1
    reference = best_peer(rounds, peers)
    columns = [
        (cost, lambda r: r.cpu_micros * scale, digits),
        ("user", lambda r: r.user_micros * scale, digits),
        ("kernel", lambda r: r.kernel_micros * scale, digits),
        ("per second", lambda r: r.per_second, 0),
        ("p99 ms", lambda r: r.p99_millis, 2),
        ("memory MiB", lambda r: r.resident / 2**20, 1),
    ]
    print("| product |", " | ".join(name for name, *_ in columns), f"| CPU to {reference} |")
    print("| --- |" + " ---: |" * (len(columns) + 1))
    for name, done in rounds.items():
        cells = [spread([figure(r) for r in done], digits) for _, figure, digits in columns]
        print(f"| {name} |", " | ".join(cells), f"| {ratios(done, rounds[reference])} |", flush=True)


def best_peer(rounds, peers):
    """Without peers, the first product is what the others are compared with."""
    among = [name for name in rounds if name in peers] or list(rounds)[:1]
    return min(among, key=lambda name: median(r.cpu_micros for r in rounds[name]))


def ratios(mine, reference):
    """Round by round, as a machine's mood lasts longer than a round."""
    return spread([a.cpu_micros / b.cpu_micros for a, b in zip(mine, reference)], 2)


def spread(figures, digits):
    middle, least, most = (f"{f(figures):.{digits}f}" for f in (median, min, max))
    return middle if len(figures) == 1 else f"{middle} ({least} to {most})"


def summary(results, peers):
    """`results`: (workload, rounds) in turn. One line for each build of evenkeel and workload."""
    print("\n### Next to the best peer\n")
    print("| workload | product | cost | best peer | its cost | CPU ratio "
          "| p99 ms | best peer's p99 | least p99 of a peer |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for workload, rounds in results:
        if not rounds:
            continue
        cost, scale = workload.cost
        digits = 2 if scale < 1 else 1
        reference = best_peer(rounds, peers)
        p99 = {name: median(r.p99_millis for r in done) for name, done in rounds.items()}
        least = min([p99[name] for name in rounds if name in peers] or [p99[reference]])
        for name in rounds:
            if name in peers:
                continue
            mine, theirs = (
                median(r.cpu_micros for r in rounds[who]) * scale for who in (name, reference)
            )
            print(
                f"| {workload.name} | {name} | {mine:.{digits}f} {cost.removeprefix('CPU ')} "
                f"| {reference} | {theirs:.{digits}f} | {ratios(rounds[name], rounds[reference])} "
                f"| {p99[name]:.2f} | {p99[reference]:.2f} | {least:.2f} |"
            )


def idle_table(connections, results):
    """`results`: (name, bytes before, bytes with the connections)."""
    print("| product | bytes/connection | MiB before | MiB with them |")
    print("| --- | ---: | ---: | ---: |")
    for name, before, after in results:
        each = (after - before) / connections
        print(f"| {name} | {each:.0f} | {before / 2**20:.1f} | {after / 2**20:.1f} |")


def sizes_table(rounds, reference):
    print(f"| with | CPU µs/request | user | kernel | per second | memory MiB | CPU to {reference} |")
    print("| --- |" + " ---: |" * 6)
    for name, done in rounds.items():
        cells = [
            spread([figure(r) for r in done], digits)
            for figure, digits in [
                (lambda r: r.cpu_micros, 1),
                (lambda r: r.user_micros, 1),
                (lambda r: r.kernel_micros, 1),
                (lambda r: r.per_second, 0),
                (lambda r: r.resident / 2**20, 1),
            ]
        ]
        print(f"| {name} |", " | ".join(cells), f"| {ratios(done, rounds[reference])} |")


def waits_table(results):
    """`results`: (what happened, sorted milliseconds)."""
    print("| what happened | requests | median ms | p99 ms | longest | over 10 ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, taken in results:
        p99 = taken[len(taken) * 99 // 100]
        over = sum(1 for millis in taken if millis > 10)
        print(f"| {name} | {len(taken)} | {median(taken):.2f} | {p99:.2f} | {taken[-1]:.1f} | {over} |")
