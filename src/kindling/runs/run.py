"""A run: one directory under logs/ with everything that one training left behind."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
import time
import uuid
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from src.kindling.config.aliases import rename_old
from src.kindling.config.compose import PARTS, ROOT, VALUES, Config, flatten
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.runs.environment import hardware, packages
from src.kindling.runs.files import read_json, shown, write, write_json
from src.kindling.runs.source_files import git_state, source_files

LOGS = ROOT / "logs"
ELSEWHERE = "let logs/ be a link to a folder that you may write"


class Run:
    """One training's directory.

    Args:
        path: the directory.
        checkpoint: the file that `task` is loaded from; the best one when left out.
    """

    def __init__(self, path: Path, checkpoint: Path | None = None) -> None:
        self.path = path
        self.chosen_checkpoint = checkpoint

    def __repr__(self) -> str:
        return f"Run({shown(self.path)})"

    @classmethod
    def claim(cls, name: str) -> Run:
        """Make the directory of a new run of a config: `logs/<name>/<time>`, nobody else's.

        Processes that a distributed training starts on the same machine receive rank 0's directory.
        """
        rank_zero_run = os.environ.get("KINDLING_RUN")
        if rank_zero_run and int(os.environ.get("LOCAL_RANK", "0")) > 0:
            return cls(Path(rank_zero_run))
        if Path(name).name != name or name == "..":
            raise InputError(
                f"{name!r}: not the name of a config; a run's folder is made in logs/<config>/"
            )
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        folder = LOGS / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{shown(folder)}: the runs' folder cannot be made: {error.strerror}; {ELSEWHERE}"
            ) from None
        number = 1
        while True:
            path = folder / (stamp if number == 1 else f"{stamp}_{number}")
            try:
                path.mkdir()  # exclusive: of two runs that try at once, one gets it
            except FileExistsError:
                number += 1
                continue
            except OSError as error:
                raise InputError(
                    f"{shown(path)}: cannot be made: {error.strerror}; {ELSEWHERE}"
                ) from None
            os.environ["KINDLING_RUN"] = str(path)
            return cls(path)

    def discard(self) -> None:
        """Remove the directory of a run that never made a step."""
        for path in sorted(self.path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self.path.rmdir()
        with suppress(OSError):  # other runs lie there
            self.path.parent.rmdir()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @cached_property
    def logger_id(self) -> str:
        """The run's ID for loggers: unique over configs, studies and time, and kept on resume."""
        if meta := self._meta():
            return str(meta.get("logger_id") or self.path.name)  # of an earlier version: its name
        inside = self.path.is_relative_to(LOGS)
        name = "-".join(self.path.relative_to(LOGS).parts if inside else self.path.parts[-2:])
        # W&B allows 128 characters, and not all.
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)[-100:]}-{uuid.uuid4().hex[:8]}"

    # -----------------------------------------------------------------------------------------
    # Written by a training

    def begin(self, config: Config, facts: dict[str, Any], again: bool = False) -> None:
        """Write config.yaml and meta.json before the first step; `again` for a resumed run."""
        from src.kindling.runs.redact import redact, redacted

        command = f"python -m src.evaluate {shown(self.path)}"
        header = f"# {config.name}: the whole config of this run; {command}\n"
        ordered = {key: config.values[key] for key in (*VALUES, *PARTS) if key in config.values}
        text = yaml.safe_dump(
            {"config": config.name, **redacted(ordered)}, sort_keys=False, allow_unicode=True
        )
        write(self.path / "config.yaml", header + text)
        commit, changed, diff = git_state()
        meta: dict[str, Any] = {
            "command": redact(shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "git": {"commit": commit, "dirty": changed},
            "files": source_files(config.name),
            "packages": packages(),
            "python": platform.python_version(),
            "hardware": hardware(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
        }
        if again and (before := self._meta()):
            meta = {**before, "resumed": [*before.get("resumed", []), meta]}
            facts = {**facts, "init": before.get("init")}
        elif diff:
            write(self.path / "diff.patch", redact(diff))
        facts = {**facts, "logger_id": self.logger_id, "exit": "running"}
        write_json(self.path / "meta.json", {**meta, **facts})
        self._write_summary(config, {}, "running")

    def finish(
        self, config: Config, metrics: dict[str, float], seconds: float, facts: dict[str, Any]
    ) -> None:
        """Write the final numbers, and how the run ended: `exit` among the facts."""
        from src.kindling.runs.redact import redacted

        if metrics:
            write_json(self.path / "metrics.json", metrics)
        meta = {key: value for key, value in self._meta().items() if key not in ("by", "error")}
        meta["seconds"] = meta.get("seconds", 0) + seconds  # over all of a resumed run's parts
        write_json(self.path / "meta.json", {**meta, **redacted(facts)})
        self._write_summary(config, metrics, facts["exit"])

    def _write_summary(self, config: Config, metrics: dict[str, float], status: str) -> None:
        from src.kindling.runs.redact import redacted

        meta = self._meta()
        summary = {
            "config_name": config.name,
            "status": status,
            "started": meta["started"],
            "seconds": meta.get("seconds"),
            "parameters": meta.get("parameters"),
            "monitor": meta.get("monitor"),
            "mode": meta.get("mode"),
            "config": flatten(redacted(config.values)),
            "metrics": metrics,
        }
        write_json(self.path / "run.json", summary)

    def _meta(self) -> dict[str, Any]:
        path = self.path / "meta.json"
        return read_json(path) if path.exists() else {}

    # -----------------------------------------------------------------------------------------
    # Read by the other commands

    @property
    def checkpoint_file(self) -> Path:
        """The file that `task` is loaded from: the chosen one, else the best, else the last."""
        if self.chosen_checkpoint is not None:
            return self.chosen_checkpoint
        best, last = self.checkpoints / "best.ckpt", self.checkpoints / "last.ckpt"
        return last if last.exists() and not best.exists() else best

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The checkpoint's content: tensors and plain values, loaded to the CPU.

        Raises:
            InputError: when the file is missing, damaged, holds code, or is not one of Kindling's.
        """
        from src.kindling.runs.checkpoint_file import read_checkpoint

        return read_checkpoint(self.checkpoint_file)

    @cached_property
    def config(self) -> Config:
        """The config, from config.yaml, or from a checkpoint without a run."""
        path = self.path / "config.yaml"
        if self.chosen_checkpoint is None or path.exists():
            try:
                values = yaml.safe_load(path.read_text(encoding="utf-8"))
                name, origin = values.pop("config"), shown(path)
            except (
                OSError,
                UnicodeDecodeError,
                yaml.YAMLError,
                AttributeError,
                KeyError,
                TypeError,
            ) as error:
                reason = " ".join(str(error).split())
                raise InputError(
                    f"{shown(path)}: not a run's config: {reason}; the checkpoint holds it too: "
                    f"name {shown(self.checkpoints / 'best.ckpt')} instead"
                ) from None
        else:
            content = self.checkpoint["kindling"]
            name, values, origin = content["name"], content["config"], shown(self.chosen_checkpoint)
        values = rename_old(values)
        return Config(name, values, dict.fromkeys(flatten(values), origin))

    @property
    def metrics(self) -> dict[str, float]:
        """The final numbers, as training wrote them."""
        path = self.path / "metrics.json"
        return read_json(path) if path.exists() else {}


def find_run(name: str | Path) -> Run:
    """Find a run.

    Args:
        name: a run's directory, a checkpoint file, `latest`, or `<config>/latest`.

    Raises:
        InputError: when there is none, with the nearest that there is.
    """
    if "://" in str(name):
        raise InputError(
            f"{name}: a run is a folder or a file here; nothing is fetched, download it first"
        )
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".ckpt":
        return Run(
            path.resolve().parent.parent
            if path.resolve().parent.name == "checkpoints"
            else path.parent,
            path,
        )
    for folder in (path, LOGS / path, ROOT / path):
        if (folder / "config.yaml").is_file():
            return Run(folder.resolve())
    runs = sorted(LOGS.glob("*/*/config.yaml"), key=_began)
    if path.name == "latest" and str(path) in ("latest", f"{path.parent.name}/latest"):
        of = path.parent.name
        found = [file for file in runs if not of or file.parent.parent.name == of]
        if found:
            return Run(found[-1].parent)
        known = ", ".join(sorted({file.parent.parent.name for file in runs})) or "none"
        raise InputError(
            f"{name}: no run yet{f' of {of}' if of else ''}; there are runs of: {known}"
        )
    names = [f"{file.parent.parent.name}/{file.parent.name}" for file in runs]
    hint = did_you_mean(str(name).removeprefix("logs/"), names)
    raise InputError(
        f"{name}: no such run{hint} "
        "(a run is a folder in logs/, a .ckpt file, 'latest' or '<config>/latest')"
    )


def _began(config: Path) -> tuple[str, int]:
    """Sort runs by their start: the folder's name, and within a second config.yaml's time."""
    return config.parent.name[: len("2026-11-21_13-24-00")], config.stat().st_mtime_ns
