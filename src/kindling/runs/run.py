"""A run: the directory of one training in logs/, with its config, results and checkpoints."""

from __future__ import annotations

import itertools
import os
import platform
import re
import shlex
import shutil
import sys
import time
import uuid
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from src.kindling.config.aliases import rename_old
from src.kindling.config.command import RUN
from src.kindling.config.compose import PARTS, ROOT, VALUES, Config, flatten, record_path
from src.kindling.config.errors import InputError, did_you_mean, escape_control
from src.kindling.config.references import resolve
from src.kindling.runs.checkpoint_file import MOST_VALUES, read_checkpoint
from src.kindling.runs.files import (
    check_plain,
    display_path,
    read_json,
    refuse_links,
    write,
    write_json,
)
from src.kindling.runs.provenance import git_state, hardware, packages, source_files
from src.kindling.runs.redact import redact, redacted

LOGS = ROOT / "logs"
ELSEWHERE = "let logs/ be a link to a folder that you may write"
LARGEST = 2**20  # bytes of a config.yaml


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge nothing: `<<` may repeat a mapping exponentially many times, and is refused."""


class Run:
    """One training's directory.

    Args:
        path: the directory.
        checkpoint: the file that `task` is loaded from; the best one when left out.
        trusted: whether its config may run code, although it comes from elsewhere.
    """

    def __init__(self, path: Path, checkpoint: Path | None = None, trusted: bool = False) -> None:
        self.path = path
        self.chosen_checkpoint = checkpoint
        self.trusted = trusted or is_own(path)
        if not self.trusted:
            folder = path.resolve()
            refuse_links(folder if (path / "config.yaml").exists() else folder / "export")

    def __repr__(self) -> str:
        return f"Run({display_path(self.path)})"

    @classmethod
    def claim_for(cls, config: Config) -> Run:
        """Make the directory of a new run: `logs/<config>/<time>`, and `_<name>` if it has one."""
        name = str(config.values.get("name") or "")
        if "oc.env" in name:  # it may be a secret
            return cls.claim(config.name)
        return cls.claim(config.name, folder_label(str(resolve(config)["name"])) if name else "")

    @classmethod
    def claim(cls, name: str, label: str = "") -> Run:
        """Make the directory `logs/<name>/<time>_<label>` of a new run of a config.

        Processes that a distributed training starts on the same machine receive rank 0's directory.
        """
        rank_zero_run = os.environ.get("KINDLING_RUN")
        if rank_zero_run and int(os.environ.get("LOCAL_RANK", "0")) > 0:
            return cls(Path(rank_zero_run))
        if Path(name).name != name or name == "..":
            place = "a run's folder is made in logs/<config>/"
            raise InputError(f"{name!r}: not the name of a config; {place}")
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S") + (f"_{label}" if label else "")
        folder = LOGS / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                path = folder / (stamp if number == 1 else f"{stamp}_{number}")
                with suppress(FileExistsError):
                    path.mkdir()  # exclusive: of two runs that try at once, one gets it
                    break
        except OSError as error:
            line = f"the runs' folder cannot be made: {error.strerror}; {ELSEWHERE}"
            raise InputError(f"{display_path(folder)}: {line}") from None
        os.environ["KINDLING_RUN"] = str(path)
        return cls(path)

    def discard(self) -> None:
        """Remove the directory of a run that never made a step."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)
        with suppress(OSError):  # it holds other runs
            self.path.parent.rmdir()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @cached_property
    def logger_id(self) -> str:
        """The run's ID for loggers: unique over configs, studies and time, and kept on resume."""
        if meta := self.read("meta.json"):
            return str(meta.get("logger_id") or self.path.name)  # of an earlier version: its name
        inside = self.path.is_relative_to(LOGS)
        name = "-".join(self.path.relative_to(LOGS).parts if inside else self.path.parts[-2:])
        # W&B allows 128 characters, and not all.
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)[-100:]}-{uuid.uuid4().hex[:8]}"

    def begin(self, config: Config, facts: dict[str, Any], again: bool = False) -> None:
        """Write config.yaml and meta.json before the first step; `again` for a resumed run."""
        command = f"python -m src.evaluate {record_path(self.path)}"
        header = f"# {config.name}: the whole config of this run; {command}\n"
        ordered = {key: config.values[key] for key in (*VALUES, *PARTS) if key in config.values}
        values = {"config": config.name, **redacted(ordered)}
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write(self.path / "config.yaml", header + text)
        commit, changed, diff = git_state()
        meta: dict[str, Any] = {
            "command": redact(shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])),
            "folder": record_path(Path.cwd()),  # where the command's relative paths start
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "git": {"commit": commit, "dirty": changed},
            "files": source_files(config.name),
            "packages": packages(),
            "python": platform.python_version(),
            "hardware": hardware(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
        }
        if again and (before := self.read("meta.json")):
            meta = {**before, "resumed": [*before.get("resumed", []), meta]}
            facts = {**facts, "init": before.get("init")}
        elif diff:
            write(self.path / "diff.patch", redact(diff))
        facts = {**facts, "logger_id": self.logger_id, "exit": "running"}
        self._write_meta(config, {**meta, **facts}, {})

    def finish(
        self, config: Config, metrics: dict[str, float], seconds: float, facts: dict[str, Any]
    ) -> None:
        """Write the final numbers, and how the run ended: `exit` among the facts."""
        if metrics:
            write_json(self.path / "metrics.json", metrics)
        before = self.read("meta.json")
        meta = {key: value for key, value in before.items() if key not in ("by", "error")}
        meta["seconds"] = meta.get("seconds", 0) + seconds  # over all of a resumed run's parts
        self._write_meta(config, {**meta, **redacted(facts)}, metrics)

    def _write_meta(self, config: Config, meta: dict[str, Any], metrics: dict[str, float]) -> None:
        """Write meta.json, and run.json, a summary for the other commands."""
        write_json(self.path / "meta.json", meta)
        names = ("seconds", "parameters", "monitor", "mode")
        summary = {
            "config_name": config.name,
            "status": meta["exit"],
            "started": meta["started"],
            **{name: meta.get(name) for name in names},
            "config": flatten(redacted(config.values)),
            "metrics": metrics,
        }
        write_json(self.path / "run.json", summary)

    def read(self, name: str) -> dict[str, Any]:
        """Read one of the run's JSON files; empty where it is missing."""
        path = self.path / name
        return read_json(path) if path.exists() else {}

    @property
    def checkpoint_file(self) -> Path:
        """The file that `task` is loaded from: the chosen one, else the best, else the last."""
        best, last = self.checkpoints / "best.ckpt", self.checkpoints / "last.ckpt"
        return self.chosen_checkpoint or (last if last.exists() and not best.exists() else best)

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The checkpoint's content; see `read_checkpoint`."""
        return read_checkpoint(self.checkpoint_file)

    @cached_property
    def config(self) -> Config:
        """The config, from config.yaml, or from a checkpoint without a run."""
        path = self.path / "config.yaml"
        if self.chosen_checkpoint and not path.exists():
            content, path = self.checkpoint["kindling"], self.chosen_checkpoint
            name, values = content["name"], content["config"]
        else:
            try:
                if path.stat().st_size > LARGEST:
                    raise ValueError(f"larger than {LARGEST:,} bytes")
                values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
                check_plain(values, "content", MOST_VALUES)
                name = str(values.pop("config"))
            except Exception as error:  # PyYAML documents no list of errors for odd values
                best = display_path(self.checkpoints / "best.ckpt")
                raise InputError(
                    f"{display_path(path)}: not a run's config: {' '.join(str(error).split())}; "
                    f"the checkpoint holds it too: name {best} instead"
                ) from None
        name, values = escape_control(name), rename_old(values)
        origins = dict.fromkeys(flatten(values), display_path(path))
        return Config(name, values, origins, self.trusted)

    @property
    def metrics(self) -> dict[str, float]:
        """The final numbers, as training wrote them."""
        return self.read("metrics.json")


def folder_label(name: str) -> str:
    """A run's name as the end of its folder's name."""
    return re.sub(r"[^\w.-]+", "-", name)[:40].strip("-.")


def is_own(path: Path) -> bool:
    """Whether a run was written here: it is in logs/, directly or by a link."""
    written = Path(os.path.abspath(path))
    return written.is_relative_to(LOGS) or path.resolve().is_relative_to(LOGS.resolve())


def find_run(name: str | Path, trust: bool = False) -> Run:
    """Find a run.

    Args:
        name: a run's directory, a checkpoint file, `latest`, or `<config>/latest`.
        trust: let the config of a run from elsewhere run code, as if it were the user's.

    Raises:
        InputError: when there is none, with the nearest that there is.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".ckpt":
        folder = path.resolve().parent
        return Run(folder.parent if folder.name == "checkpoints" else path.parent, path, trust)
    for folder in (path, LOGS / path, ROOT / path):
        if (folder / "config.yaml").is_file():
            return Run(folder.resolve(), trusted=trust or is_own(folder))
    # By their start: the folder's name, and within a second config.yaml's time.
    runs = sorted(
        LOGS.glob("*/*/config.yaml"),
        key=lambda file: (file.parent.name[:19], file.stat().st_mtime_ns),
    )
    names = [f"{file.parent.parent.name}/{file.parent.name}" for file in runs]
    config, _, last = path.as_posix().rpartition("/")
    if last == "latest" and "/" not in config:
        found = [name for name in names if not config or name.startswith(f"{config}/")]
        if found:
            return Run(LOGS / found[-1])
        known = ", ".join(sorted({name.partition("/")[0] for name in names})) or "none"
        of = f" of {config}" if config else ""
        raise InputError(f"{name}: no run yet{of}; there are runs of: {known}")
    names += sorted({f"{name.partition('/')[0]}/latest" for name in names})
    hint = did_you_mean(str(name).removeprefix("logs/"), [*names, "latest"] if names else [])
    raise InputError(f"{name}: no such run{hint} (a run is {RUN})")
