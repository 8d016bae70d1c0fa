"""This process's rank in a distributed training, and a broadcast without torch.distributed.

Processes that Lightning starts are children of rank 0 and receive its run by their environment.
Those of torchrun and SLURM are equals, perhaps on several machines: there rank 0 broadcasts to the
others through torch's TCPStore.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from src.kindling.config.compose import get

KEYS = ("trainer.strategy", "trainer.devices", "trainer.num_nodes")
ONE_PROCESS = (None, "auto", 1, "1")


def distributed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config that require more than one process."""
    return {key: value for key in KEYS if (value := get(values, key)) not in ONE_PROCESS}


def rank(values: Mapping[str, Any] | None = None) -> int:
    """Return this process's rank in its training; 0 without a distributed training.

    Under SLURM each process may train by itself: there the config's values decide.
    """
    env = os.environ
    if values and "RANK" not in env and distributed(values) and "SLURM_NTASKS" in env:
        return int(env.get("SLURM_PROCID", "0"))
    return int(env.get("RANK", "0")) or int(env.get("LOCAL_RANK", "0"))


def broadcast(values: Mapping[str, Any], make: Callable[[], str]) -> str:
    """Return the result of `make` on rank 0, on all ranks."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:  # torchrun serves the store of its rendezvous
        store = _open_store(env["MASTER_ADDR"], int(env["MASTER_PORT"]), False)
    elif distributed(values) and int(env.get("SLURM_NTASKS", "1")) > 1:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        job = SLURMEnvironment(auto_requeue=False)
        # Lightning takes the main port a little later; the one below it is as likely to be free.
        store = _open_store(job.main_address, job.main_port - 1, rank(values) == 0)
    else:
        return make()
    key = f"kindling/{env.get('TORCHELASTIC_RESTART_COUNT', '0')}"  # the store outlives a restart
    if rank(values) == 0:
        store.set(key, make())
    return str(store.get(key).decode())


@cache  # rank 0 serves the store as long as its process lives
def _open_store(host: str, port: int, is_master: bool) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(host, port, is_master=is_master)
