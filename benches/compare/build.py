"""This checkout's release build."""

import json
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def release():
    print("building evenkeel (cargo build --release) ...", flush=True)
    command = ["cargo", "build", "--release", "--bin", "evenkeel", "--message-format", "json"]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("evenkeel does not build")
    messages = map(json.loads, done.stdout.splitlines())
    return Path(next(m["executable"] for m in messages if m.get("executable")))
