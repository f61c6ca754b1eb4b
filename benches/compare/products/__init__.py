"""The programs under test: how each is configured at its best, a file each, and how it is found.

Each has one data thread, backend connections that are kept alive, and no access log. Counters and
health checks are on where the product has them. The kernel is as it comes.
"""

from .backend import Backend
from .envoy import Envoy
from .evenkeel import Evenkeel
from .haproxy import Haproxy
from .nginx import Nginx
from .pingora import Pingora
from .traefik import Traefik

PEERS = [Haproxy, Nginx, Envoy, Traefik, Pingora]
