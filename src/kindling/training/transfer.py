"""Initialize a training with the weights of another run (`--init`)."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule

from src.kindling.config.compose import record_path
from src.kindling.config.errors import InputError, join_names
from src.kindling.nn.head import find_head
from src.kindling.runs.files import display_path
from src.kindling.training.trained_run import TrainedRun


def take_weights(task: LightningModule, init: TrainedRun) -> dict[str, Any]:
    """Copy a run's weights of the same name and shape; print the others.

    The head of a net that was trained on other classes is left out, whatever its shape.
    """
    net: Any = getattr(task, "net", task)
    prefix = "" if net is task else "net."  # the task's statistics of its data are not taken
    theirs, ours = init.checkpoint["state_dict"], task.state_dict()
    learned = init.spec.classes if init.spec else ()
    classes = getattr(getattr(task, "outputs", None), "names", learned) if learned else ()
    head = f"{prefix}{find_head(net)}." if learned != classes else None
    own = [name for name in ours if name.startswith(prefix)]
    fits = {name for name in own if name in theirs and theirs[name].shape == ours[name].shape}
    taken = {name for name in fits if head is None or not name.startswith(head)}
    if not taken:
        line = (
            f"--init {display_path(init.path)}: not one of its {len(theirs)} tensors fits this net"
        )
        raise InputError(line)
    task.load_state_dict({name: theirs[name] for name in taken}, strict=False)
    left = [name for name in own if name not in taken]
    print(f"init: took {len(taken)} tensors of the net from {display_path(init.path)}")
    for name in left:
        there = f"{tuple(theirs[name].shape)} there" if name in theirs else "missing there"
        if name in fits:
            there = f"there of other classes: {join_names(learned)}"
        print(f"init: not taken: {name} ({tuple(ours[name].shape)} here, {there})")
    return {"run": record_path(init.path), "taken": sorted(taken), "left": left}
