"""Configurations of evenkeel that grow in one direction; `scale` measures each.

Each gives a function of the port to listen on and the backend's address, as `products.Evenkeel`
wants it. The last route is the one that matches. Backend connections are kept for good, so that what
is measured is the size, not the time since the last round.
"""


def plain(port, backend):
    return file(port, ["{pool: web}"], {"web": [backend]})


def with_routes(count):
    def make(port, backend):
        routes = [f'{{match: {{path: "/route-{n}/*"}}, pool: web}}' for n in range(count - 1)]
        return file(port, [*routes, "{match: {path: /small}, pool: web}"], {"web": [backend]})

    return make


def with_pools(count):
    """A pool and a route for each of so many hosts."""

    def make(port, backend):
        names = [f"pool-{n}" for n in range(count - 1)]
        routes = [f'{{match: {{host: "{name}.example"}}, pool: {name}}}' for name in names]
        pools = {name: [other_address(n, backend)] for n, name in enumerate(names)}
        return file(port, [*routes, "{pool: web}"], pools | {"web": [backend]})

    return make


def with_backends(count, interval=None):
    """All of them are one nginx, at addresses of their own; `interval`: probed that often."""

    def make(port, backend):
        backends = [other_address(n, backend) for n in range(count)]
        return file(port, ["{pool: web}"], {"web": backends}, interval)

    return make


def other_address(number, backend):
    return f"127.1.{number // 250}.{number % 250 + 1}:{backend.rpartition(':')[2]}"


def file(port, routes, pools, interval=None):
    lines = ["pool_defaults:", "  keepalive: {max_idle: 10000, idle_timeout: 1h}"]
    if interval:
        lines += [f"  health_check: {{http: {{path: /small}}, interval: {interval}}}"]
    lines += ["listeners:", "  http:", f'    bind: "127.0.0.1:{port}"', "    routes:"]
    lines += [f"      - {route}" for route in routes]
    lines += ["pools:"]
    for name, backends in pools.items():
        lines += [f"  {name}:", "    backends:"]
        lines += [f'      - "{backend}"' for backend in backends]
    return "\n".join(lines) + "\n"
