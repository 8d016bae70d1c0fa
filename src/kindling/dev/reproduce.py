"""Train a run again from its config, seed and split, and say whether its numbers come out the same, to the last digit.

python -m src.reproduce RUN
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from src.kindling.config.errors import InputError, counted
from src.kindling.runs.environment import hardware, packages
from src.kindling.runs.files import read_json, shown
from src.kindling.runs.run import Run
from src.kindling.runs.source_files import HEADING, compare_files, git_state, source_files

if TYPE_CHECKING:
    from src.kindling.data.batch import Stage
    from src.kindling.training.fit import Result
    from src.kindling.training.trained_run import TrainedRun

STAGES: tuple[Stage, ...] = ("val", "test")

UNKNOWN = (
    "none is known; a GPU adds up in another order each time (trainer.deterministic=true), and other processors, or "
    "fewer cores than threads, round the last digits in another way"
)


def differences(run: TrainedRun, then: dict[str, Any]) -> Iterator[str]:
    """What is not as it was when a run was trained, `then` being its meta.json; a line for each."""
    from src.kindling.runs.redact import redact

    commit, _, diff = git_state()
    patch = run.path / "diff.patch"
    before = patch.read_bytes().decode(errors="replace") if patch.exists() else ""
    # Untracked files are compared by their hashes, each by its name.
    before, diff = (text.partition(HEADING)[0] for text in (before, redact(diff)))
    compared: list[tuple[str, Any, Any]] = [("git commit", (then.get("git") or {}).get("commit"), commit)]
    if before != diff:
        sizes = [f"{len(text.splitlines())} lines of diff" if text else "none" for text in (before, diff)]
        compared.append(("uncommitted changes", sizes[0], sizes[1] if sizes[0] != sizes[1] else f"other {sizes[1]}"))
    compared.append(("python", then.get("python"), platform.python_version()))
    for name, now in (("packages", packages()), ("hardware", hardware())):
        was = then.get(name) or {}
        compared += [(key, was.get(key), now.get(key)) for key in dict.fromkeys([*was, *now])]
    yield from (f"{what}: {was} then, {now} now" for what, was, now in compared if was != now)
    yield from compare_files(then.get("files", {}), run.config.name)
    from src.kindling.training.build import build_data

    data = build_data(run.config)
    if then.get("split_hash") != data.split_hash():
        yield "split: other samples in training, validation or test: the data have changed since"
    if "data_hash" in then and then["data_hash"] != (found := data.content_hash()):
        yield f"data: hash {then['data_hash'][:12]} then, {found[:12]} now: samples or their targets have changed since"
    if any("--override" in part.get("command", "") for part in then.get("resumed", [])):
        yield "resumed: its config was changed on the way (--override); now it is the last one from the start"


def unrecorded_files(then: dict[str, Any]) -> str | None:
    """Which untracked files cannot be compared, since an earlier version recorded none."""
    if "files" in then or not (names := list(source_files(""))):
        return None
    return f"{counted(names)}: not tracked by git; the run does not record such files"


def reproduce(run: TrainedRun) -> tuple[Result, list[str]]:
    """Say what differs from then, and train a run again into a directory of its own, measured on the same splits.

    Returns:
        The new training, and what differs.

    Raises:
        InputError: when the run has no final numbers, or began with the weights of a run that is gone.
    """
    from src.kindling.analysis.plots import Plots
    from src.kindling.config import instantiate
    from src.kindling.training.fit import fit

    path = run.path / "meta.json"
    meta = read_json(path) if path.exists() else {}
    if meta.get("exit") != "finished":
        raise InputError(f"{shown(run.path)}: it has not finished ({meta.get('exit', 'no meta.json')}); to go on with it: "
                         f"python -m src.train --resume {shown(run.path)}")  # fmt: skip
    if not run.metrics:
        raise InputError(f"{shown(run.path / 'metrics.json')}: no such file: there are no numbers to compare with")
    init = _init(run, meta["init"]["run"]) if meta.get("init") else None
    instantiate.check(run.config)
    if meta.get("resumed"):
        print(f"resumed    {len(meta['resumed'])} times; it is trained in one go now")
    found, unknown = list(differences(run, meta)), unrecorded_files(meta)
    if found:
        print("\n".join(f"differs    {line}" for line in found))
    else:
        print(f"as then    {'' if unknown else 'code, '}packages, Python, hardware, data, split")
    if unknown:
        print(f"unknown    {unknown}")
        found.append(unknown)
    stages: list[Stage] = [stage for stage in STAGES if any(name.startswith(f"{stage}/") for name in run.metrics)]
    again = Run.claim(run.config.name)
    try:
        return fit(run.config, again, stages, init, plots=Plots(again)), found
    except BaseException as error:
        if not again.checkpoints.exists() and (
            isinstance(error, InputError) or not (again.path / "meta.json").exists()
        ):
            again.discard()  # nothing was trained
        raise


def _init(run: TrainedRun, name: str) -> TrainedRun:
    from src.kindling.training.trained_run import load_run

    print(f"init       weights of {name}: they have to be the same as then")
    try:
        return load_run(name)
    except InputError:
        raise InputError(f"{shown(run.path)}: it began with the weights of {name} (--init) and needs the same; "
                         "that run is gone") from None  # fmt: skip


def _table(then: dict[str, float], now: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    printed = Table("metric", "then", "now", box=None, pad_edge=False, header_style="bold")
    for name in dict.fromkeys([*then, *now]):
        printed.add_row(name, *(repr(numbers.get(name)) for numbers in (then, now)))
    Console(highlight=False).print(printed)
