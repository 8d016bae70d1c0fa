"""Train a run again from its config, and list what differs from the first training."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

from src.kindling.analysis.plots import Plots
from src.kindling.config import instantiate
from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError, escape_control
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import Stage
from src.kindling.runs.checkpoint_file import read_checkpoint
from src.kindling.runs.files import display_path
from src.kindling.runs.metric_names import parse_name
from src.kindling.runs.provenance import (
    HEADING,
    compare_files,
    git_state,
    hardware,
    packages,
)
from src.kindling.runs.redact import redact
from src.kindling.runs.run import Run
from src.kindling.training.build import build_data
from src.kindling.training.fit import Result, fit
from src.kindling.training.resume import config_differences
from src.kindling.training.trained_run import TrainedRun, load_run


def reproduce(run: TrainedRun) -> tuple[Result, list[str]]:
    """Train a run again into a new directory, and measure it on the same splits.

    Returns:
        The new training, and a line for each difference from the first.

    Raises:
        InputError: when the run is not finished, has no metrics, or its --init run is missing.
    """
    meta = run.read("meta.json")
    if meta.get("exit") != "finished":
        state, name = meta.get("exit", "no meta.json"), display_path(run.path)
        remedy = f"resume it: python -m src.train --resume {name}"
        raise InputError(f"{name}: not finished ({state}); {remedy}")
    if not run.metrics:
        file = display_path(run.path / "metrics.json")
        raise InputError(f"{file}: no such file; choose a run that has metrics to compare with")
    init = None
    if meta.get("init"):
        print(f"init       weights of {meta['init']['run']}: they must be unchanged")
        init = load_run(meta["init"]["run"])
    instantiate.check(run.config)
    if meta.get("resumed"):
        print(f"resumed    {len(meta['resumed'])} times; now trained without interruption")
    differing = [escape_control(line) for line in find_differences(run, meta)]
    for line in differing:
        print(f"differs    {line}")
    if not differing:
        print("same       code, packages, Python, hardware, data, split")
    measured = {parse_name(name)[0] for name in run.metrics}
    stages: tuple[Stage, ...] = ("val",) if measured == {"val"} else ("val", "test")
    new = Run.claim_for(run.config)
    try:
        # An earlier version took what fits, and recorded no way of matching.
        match = (meta.get("init") or {}).get("match", "partial")
        return fit(run.config, new, stages, init, plots=Plots(new), match=match), differing
    except BaseException as error:
        written = (new.path / "meta.json").exists()
        if not new.checkpoints.exists() and (isinstance(error, InputError) or not written):
            new.discard()  # nothing was trained
        raise


def find_differences(run: TrainedRun, then: dict[str, Any]) -> Iterator[str]:
    """List what changed in environment, code and data since a run; `then` is its meta.json."""
    commit, _, diff = git_state()
    now = {"git commit": commit, "python": platform.python_version(), **packages(), **hardware()}
    before = {"git commit": (then.get("git") or {}).get("commit"), "python": then.get("python")}
    before |= {**(then.get("packages") or {}), **(then.get("hardware") or {})}
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) != now.get(name):
            yield f"{name}: {before.get(name)} then, {now.get(name)} now"
    patch = run.path / "diff.patch"
    old_diff = patch.read_bytes().decode(errors="replace") if patch.exists() else ""
    # Untracked files are compared below, by their hashes.
    old_diff, diff = (text.partition(HEADING)[0] for text in (old_diff, redact(diff)))
    if old_diff != diff:
        sizes = [f"{len(text.splitlines())} lines of diff" for text in (old_diff, diff)]
        yield f"uncommitted changes: {sizes[0]} then, {sizes[1]} with other content now"
    yield from compare_files(then.get("files", {}), run.config.name)
    yield from _edited_values(run)
    data = build_data(run.config)
    own = data if isinstance(data, DataModule) else None
    if own and then.get("split_hash") != own.split_hash():
        yield "split: other samples in training, validation or test; the data changed"
    if own and "data_hash" in then and then["data_hash"] != (content := own.content_hash()):
        hashes = f"hash {then['data_hash'][:12]} then, {content[:12]} now"
        yield f"data: {hashes}; samples or targets changed"
    if any("--override" in part.get("command", "") for part in then.get("resumed", [])):
        yield "resumed: with --override; the last config is now used from the start"


def _edited_values(run: TrainedRun) -> Iterator[str]:
    """The values of the run's config.yaml that differ from those in its checkpoint."""
    last = run.checkpoints / "last.ckpt"
    if last.exists():
        trained = Config(run.config.name, read_checkpoint(last)["kindling"]["config"])
        for key, (before, now) in config_differences(trained, run.config).items():
            yield f"{key}: {before} then, {now} in config.yaml now"
