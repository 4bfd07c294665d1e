"""One measurement in a process of its own, which compiles all that it runs."""

import json
import os
import signal
import subprocess
import sys
from typing import Any


def run_worker(script: str, task: str, **environment: str) -> dict[str, Any]:
    """What a worker prints as its last line, or under "failed" why it could not.

    Args:
      script: Its file.
      task: What to measure, in JSON: its standard input.
      environment: Variables to set. Nothing compiled earlier is used, so that every process does
        the same.
    """
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, script], input=task, env=env | environment, capture_output=True, text=True
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode == -signal.SIGKILL:
        return {"failed": "killed, as happens when memory runs out"}
    lines = done.stderr.strip().splitlines() or ["no message"]
    return {"failed": f"exit code {done.returncode}: {lines[-1]}"}
