"""`python -m src.serve` with a fault, which the environment names; spawned processes import it again.

FAULT=hang: decoders hang on bodies that begin with "slow", as on a crafted file.
FAULT=shaky: the first SHAKY_STARTS workers are killed before they are ready; SHAKY_FILE counts them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import current_process
from typing import Any

from src.kindling.config.command import run_command
from src.kindling.deploy.serving import server
from src.serve import main

if os.environ["FAULT"] == "hang":
    from src.kindling.deploy.serving import decode, decoders, rows

    def hang(call: Callable[..., Any]) -> Callable[..., Any]:
        def hanging(*arguments: Any) -> Any:
            while any(isinstance(x, bytes) and x.startswith(b"slow") for x in arguments):
                time.sleep(60)
            return call(*arguments)

        return hanging

    decoders.STUCK_AFTER = 0.3
    for decoder in (rows.RowDecoder, decode.ImageDecoder):
        decoder.__call__ = hang(decoder.__call__)

if os.environ["FAULT"] == "shaky":
    server.DELAYS = (0.01, 0.02, 0.03, 0.04, 0.05)
    if current_process().name.count("-") == 1 and ":" not in current_process().name:  # a worker
        count = os.environ["SHAKY_FILE"]
        with open(count, "a") as file:
            file.write("x")
        if os.path.getsize(count) <= int(os.environ["SHAKY_STARTS"]):
            print("almost ready", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    run_command(main)
