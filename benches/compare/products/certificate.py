"""The certificate that all products show: ECDSA on P-256, signed by itself. Made anew for each run."""

import subprocess
from pathlib import Path


def pair(folder):
    """Certificate and key in PEM; made by the first who asks."""
    cert, key = Path(folder) / "tls.pem", Path(folder) / "tls.key"
    if not cert.exists():
        command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 7 "
        command += "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
        subprocess.run(
            [*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True
        )
    return cert, key


def in_one_file(folder):
    """As haproxy wants it."""
    both = Path(folder) / "both.pem"
    both.write_bytes(b"".join(path.read_bytes() for path in pair(folder)))
    return both
