"""This process's rank in a distributed training, and a broadcast without torch.distributed.

Processes that Lightning starts are children of rank 0 and receive its run by their environment.
Those of torchrun and SLURM are equals, perhaps on several machines: there rank 0 broadcasts to the
others through torch's TCPStore.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from src.kindling.config.compose import get

ALONE = (None, "auto", 1, "1")
_store: Any = None  # kept as long as the process lives: rank 0 of a SLURM job serves it


def distributed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config that require more than one process."""
    keys = ("trainer.strategy", "trainer.devices", "trainer.num_nodes")
    return {key: value for key in keys if (value := get(values, key)) not in ALONE}


def rank(values: Mapping[str, Any] | None = None) -> int:
    """Return this process's rank in its training; 0 without a distributed training.

    Under SLURM each process may train by itself: there the config's values decide.
    """
    if values and "RANK" not in os.environ and distributed(values) and "SLURM_NTASKS" in os.environ:
        return int(os.environ.get("SLURM_PROCID", "0"))
    return int(os.environ.get("RANK", "0")) or int(os.environ.get("LOCAL_RANK", "0"))


def broadcast(values: Mapping[str, Any], make: Callable[[], str]) -> str:
    """Return the result of `make` on rank 0, on all ranks."""
    if (store := _open(values)) is None:
        return make()
    # torchrun's store outlives a restart.
    key = f"kindling/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if rank(values) == 0:
        store.set(key, make())
    return str(store.get(key).decode())


def _open(values: Mapping[str, Any]) -> Any:
    """Return the training's TCPStore; None for one process, or where Lightning starts them."""
    global _store
    if _store is None and "TORCHELASTIC_RUN_ID" in os.environ:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # The store of the rendezvous, which torchrun serves.
        _store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
        )
    elif _store is None and distributed(values) and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        job = SLURMEnvironment(auto_requeue=False)
        world_size = int(os.environ["SLURM_NTASKS"])
        # Lightning takes the main port a little later; the one below it is as likely to be free.
        _store = TCPStore(
            job.main_address, job.main_port - 1, world_size, is_master=rank(values) == 0
        )
    return _store
