"""The processes of one distributed training, started by Lightning, torchrun or SLURM: which this is, and what it is told.

Lightning's own processes are children of the first and are told its run by their environment. Those of torchrun and SLURM
are equals, on several machines perhaps: there the first tells the others through torch's TCPStore.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from src.kindling.config.compose import get

ALONE = (None, "auto", 1, "1")
_store: Any = None  # lives as long as the process: the first one of a SLURM job serves it


def distributed(values: Mapping[str, Any]) -> dict[str, Any]:
    """What in a config's values asks for more than one process; empty where nothing does."""
    keys = ("trainer.strategy", "trainer.devices", "trainer.num_nodes")
    return {key: value for key in keys if (value := get(values, key)) not in ALONE}


def rank(values: Mapping[str, Any] | None = None) -> int:
    """This process's number in its training: 0 for the first one, and for one that trains alone.

    A process under SLURM may well train alone, beside others: there the config's values decide.
    """
    if values and "RANK" not in os.environ and distributed(values) and "SLURM_NTASKS" in os.environ:
        return int(os.environ.get("SLURM_PROCID", "0"))
    return int(os.environ.get("RANK", "0")) or int(os.environ.get("LOCAL_RANK", "0"))


def agreed(values: Mapping[str, Any], make: Callable[[], str]) -> str:
    """What the first process of a training makes, in all of them."""
    if (store := _open(values)) is None:
        return make()
    key = f"kindling/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"  # torchrun's store outlives a restart
    if rank(values) == 0:
        store.set(key, make())
    return str(store.get(key).decode())


def _open(values: Mapping[str, Any]) -> Any:
    """torch's store that all processes of the training reach; None where Lightning starts them, or there is one."""
    global _store
    if _store is None and "TORCHELASTIC_RUN_ID" in os.environ:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # The one by which the processes found each other; torchrun serves it.
        _store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    elif _store is None and distributed(values) and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        job, ranks = SLURMEnvironment(auto_requeue=False), int(os.environ["SLURM_NTASKS"])
        # Lightning takes the port itself, a little later; the one below it is as likely to be free.
        _store = TCPStore(job.main_address, job.main_port - 1, ranks, is_master=rank(values) == 0)
    return _store
