"""A fork server that trains in child processes that can be killed; it has imported torch but not used it.

Standard input: one JSON object a line: ``{"settings": …, "text": …, "run": …, "kill_after_seconds": …}``.
Standard output, for each: ``{"killed": …, "code": …}``.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from charlm.config import SettingsSource
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest


def train(request: dict[str, Any]) -> None:
    sources = [SettingsSource("test", request["settings"])]
    plan_training(TrainingRequest([request["text"]], sources, out=Path(request["run"]), resume="auto")).train(
        quiet=True
    )


def fork_training(request: dict[str, Any]) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            train(request)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return process


def poll_exit_code(process: int) -> int | None:
    pid, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        process = fork_training(request)
        deadline = time.monotonic() + request["kill_after_seconds"]
        while (code := poll_exit_code(process)) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        if code is None:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        print(json.dumps({"killed": code is None, "code": code}), flush=True)


if __name__ == "__main__":
    main()
