"""A training that begins with the weights of another run: which are taken, and which are not."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule

from src.kindling.config.errors import InputError, join_names
from src.kindling.nn.head import find_head
from src.kindling.runs.files import shown
from src.kindling.training.trained_run import TrainedRun


def take_weights(task: LightningModule, init: TrainedRun) -> dict[str, Any]:
    """Copy from another run the weights whose names and shapes agree; says which do not.

    The head of a net that has learned other classes is left out, be there as many of them or not.
    """
    net: Any = getattr(task, "net", task)
    prefix = "" if net is task else "net."
    theirs, ours = init.checkpoint["state_dict"], task.state_dict()
    learned = init.spec.classes if init.spec else ()
    classes = getattr(getattr(task, "outputs", None), "names", learned) if learned else ()
    head = f"{prefix}{find_head(net)}." if learned != classes else None
    fits = {
        name: value
        for name, value in theirs.items()
        if name in ours and ours[name].shape == value.shape
    }
    # The statistics of the data are this run's own.
    fits = {name: value for name, value in fits.items() if name.startswith(prefix)}
    fits = {
        name: value for name, value in fits.items() if head is None or not name.startswith(head)
    }
    if not fits:
        raise InputError(
            f"--init {shown(init.path)}: not one of its {len(theirs)} tensors fits this net"
        )
    task.load_state_dict(fits, strict=False)
    left = [name for name in ours if name.startswith(prefix) and name not in fits]
    print(f"init: took {len(fits)} tensors of the net from {shown(init.path)}")
    for name in left:
        there = f"{tuple(theirs[name].shape)} there" if name in theirs else "missing there"
        if name in theirs and theirs[name].shape == ours[name].shape:
            there = f"there of other classes: {join_names(learned)}"
        print(f"init: not taken: {name} ({tuple(ours[name].shape)} here, {there})")
    return {"run": shown(init.path), "taken": sorted(fits), "left": left}
