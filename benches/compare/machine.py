"""What this machine has: programs, CPUs, and files that a process may open."""

import os
import resource
import shutil
import sys

# For ten thousand connections on both sides of a product.
OPEN_FILES = 32768


def refuse_without(programs):
    """`programs`: the Debian package of each."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        packages = " ".join(programs[name] for name in missing)
        sys.exit(f"missing: {', '.join(missing)}. On Debian: apt-get install {packages}")


def two_cpus():
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        sys.exit("two CPUs are needed: one for the product, one for client and backend")
    return cpus[0], cpus[1]


def raise_open_files():
    """As far as needed; above the hard limit if the user may do that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((OPEN_FILES, max(hard, OPEN_FILES)), (hard, hard)):
        try:
            return resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        except (ValueError, OSError):
            pass


def most_connections():
    """That a proxy with this limit of open files can hold, each with one to its backend."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (soft - 1000) // 2
