"""Initialize a training with the weights of another run (`--init`)."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import LightningModule

from src.kindling.config.compose import record_path
from src.kindling.config.errors import InputError, join_names
from src.kindling.nn.additions import net_of, outputs_of
from src.kindling.nn.backbones import describe_renaming, find_head, match_by_order
from src.kindling.runs.files import display_path
from src.kindling.training.trained_run import TrainedRun

Match = Literal["name", "partial", "order"]


def take_weights(task: LightningModule, init: TrainedRun, match: Match = "name") -> dict[str, Any]:
    """Copy a run's weights that fit the task's net; print the others.

    The head of a net that was trained on other classes is left out, whatever its shape.

    Args:
        task: the new task.
        init: the run.
        match: `name` takes what has the same name and shape, at least half of the parameters;
            `partial` accepts less; `order` takes tensors of other names if their order agrees.

    Raises:
        InputError: when too little fits.
    """
    net = net_of(task)
    prefix = "" if net is task else "net."  # the task's statistics of its data are not taken
    theirs, ours = init.checkpoint["state_dict"], task.state_dict()
    theirs = {name: value for name, value in theirs.items() if name.startswith(prefix)} or theirs
    learned = init.spec.classes if init.spec else ()
    classes = getattr(outputs_of(task), "names", learned) if learned else ()
    head = f"{prefix}{find_head(net)}." if learned != classes else None
    own = [name for name in ours if name.startswith(prefix)]
    wanted = {name: ours[name] for name in own if head is None or not name.startswith(head)}
    renaming = match_by_order(wanted, theirs)
    fits = {name for name in own if name in theirs and theirs[name].shape == ours[name].shape}
    sources = renaming if match == "order" else {name: name for name in wanted if name in fits}
    sizes = {name: value.numel() for name, value in task.named_parameters() if name in wanted}
    share = sum(sizes.get(name, 0) for name in sources) / (sum(sizes.values()) or 1)
    path, amount = display_path(init.path), f"{100 * share:.0f} % of its parameters"
    if not sources or (match == "name" and share < 0.5):
        remedy = "pass --partial to take them" if sources else "name a run of the same net"
        if renaming:
            remedy = f"pass --by-order to take {describe_renaming(renaming)}"
        problem = f"{len(sources)} of {len(wanted)} tensors fit this net ({amount})"
        raise InputError(f"--init {path}: {problem}; {remedy}")
    task.load_state_dict({name: theirs[source] for name, source in sources.items()}, strict=False)
    print(f"init: loaded {len(sources)} tensors of the net from {path} ({amount})")
    if renamed := describe_renaming(sources):
        print(f"init: by order: {renamed}")
    left = [name for name in own if name not in sources]
    for name in left:
        there = f"{tuple(theirs[name].shape)} there" if name in theirs else "missing there"
        if name in fits:
            there = f"there of other classes: {join_names(learned)}"
        print(f"init: not loaded: {name} ({tuple(ours[name].shape)} here, {there})")
    return {"run": record_path(init.path), "match": match, "taken": sorted(sources), "left": left}
