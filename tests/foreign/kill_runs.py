"""Train foreign cases that are killed again and again, in forked children of one process.

    python -m tests.foreign.kill_runs LOGS

Reads a request for each line of its input, a `KillRun` as JSON, and answers with a line of JSON: the
kills, and how the ending differs from that of a training that was never killed. Importing torch and
Lightning takes seconds, and a fork none: so this process imports them once, and never runs a tensor
operation itself, as a fork has no threads of torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sklearn.datasets
import torch

from src.kindling.analysis import plots
from src.kindling.training import checkpoint_io, fit
from src.kindling.training.run_loggers import Curves
from src.train import main
from tests.foreign.drive import foreign

__all__ = ["fit", "plots", "sklearn"]  # imported before the first fork
LIMIT = 90  # seconds for one child
COMPARED = ("state_dict", "optimizer_states", "lr_schedulers")
WORDS = ("num_threads=1", "--no-plots")
# A hook of a callback, and the place that it counts.
HOOKS = {
    "on_train_batch_start": "batch start",
    "on_after_backward": "after backward",
    "on_train_batch_end": "batch end",  # before it is saved
    "on_validation_batch_start": "in validation",
    "on_train_epoch_end": "epoch end",
}


@dataclass(frozen=True)
class KillRun:
    """One training that is killed at random places.

    Attributes:
        name: of the case.
        words: changes to its config.
        seed: for the number of kills and their places.
        minutes: `checkpoint_minutes`; 0 saves every step, 1000 only epochs.
    """

    name: str
    words: tuple[str, ...]
    seed: int
    minutes: int


class Places:
    """Counts how often a training comes by each place, and kills it at one."""

    def __init__(self, at: tuple[str, int] | None = None) -> None:
        self.at, self.counts, self.saving = at, Counter[str](), False

    def count(self, place: str) -> None:
        self.counts[place] += 1
        if (place, self.counts[place]) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Patch this process, which ends after its training."""
        for name, place in HOOKS.items():
            setattr(Curves, name, self._counted(getattr(Curves, name, None), place))
        save, sync = checkpoint_io.AtomicIO.save_checkpoint, os.fsync

        def save_checkpoint(*arguments: Any, **options: Any) -> None:
            self.saving = True
            save(*arguments, **options)
            self.saving = False

        def fsync(file: int) -> None:
            if self.saving:  # a file that is not renamed yet, or the folder
                self.count("in a save")
            sync(file)

        checkpoint_io.AtomicIO.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
        os.fsync = fsync

    def _counted(self, hook: Callable[..., None] | None, place: str) -> Callable[..., None]:
        def count(callback: Any, trainer: Any, *arguments: Any) -> None:
            if hook:
                hook(callback, trainer, *arguments)
            if trainer.state.fn == "fit":
                self.count(place)

        return count


def in_child(task: Callable[[], Any], folder: Path) -> tuple[int, Any]:
    """Run a task in a fork, and return its status as in `subprocess`, and what it returned."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _become_child(task, folder, answer)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # workers of its loaders
    result = json.loads(answer.read_text()) if answer.exists() else None
    return os.waitstatus_to_exitcode(status), result


def _become_child(task: Callable[[], Any], folder: Path, answer: Path) -> None:
    status = 1
    try:
        os.setsid()
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.register(signal.SIGALRM, chain=True)  # then SIGALRM ends the process
        signal.alarm(LIMIT)
        result = task()
        sys.stdout.flush()
        answer.write_text(json.dumps(result))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def train(
    run: KillRun, logs: Path, at: tuple[str, int] | None
) -> tuple[dict[str, int], dict[str, str]]:
    """Begin or resume the run; return how often it came by each place, and its ending."""
    places = Places(at)
    places.install()
    with foreign(logs):
        begun = list(logs.glob(f"{run.name}/*"))
        if begun:
            main(["--resume", str(begun[0]), *WORDS[1:]])
        else:
            main([run.name, *WORDS, *run.words, f"checkpoint_minutes={run.minutes}"])
    return dict(places.counts), ending(logs)


def ending(logs: Path) -> dict[str, str]:
    """What a run has left: digests of all values in its checkpoints, and its tables."""
    (path,) = logs.glob("*/*")
    found = {}
    for file in ("last.ckpt", "best.ckpt"):
        if (path / "checkpoints" / file).exists():
            content = torch.load(path / "checkpoints" / file, weights_only=True)
            for part in COMPARED if file == "last.ckpt" else COMPARED[:1]:
                found |= dict(_digests(content[part], f"{file} {part}"))
            found[f"{file} step"] = str(content["global_step"])
    for file in ("metrics.csv", "steps.csv", "metrics.json"):
        if (path / file).exists():
            found[file] = (path / file).read_text()
    return found


def _digests(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _digests(item, f"{name}.{key}")
    elif isinstance(value, torch.Tensor):
        content = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        yield name, hashlib.sha256(f"{value.dtype}{value.shape}".encode() + content).hexdigest()
    else:
        yield name, repr(value)


def differences(whole: dict[str, str], other: dict[str, str]) -> list[str]:
    """The values that differ, and the first line of each table that does."""
    found = []
    for name in dict.fromkeys([*whole, *other]):
        was, now = whole.get(name), other.get(name)
        if was == now:
            continue
        if was is None or now is None or not name.endswith((".csv", ".json")):
            found.append(f"{name}: {str(was)[:20]} {str(now)[:20]}")
            continue
        rows = zip(f"{was}\n-".splitlines(), f"{now}\n-".splitlines(), strict=False)
        first = next((pair for pair in rows if pair[0] != pair[1]), None)
        found.append(f"{name}: {first} under {was.splitlines()[0]}")
    return found


def threads() -> int:
    """The threads of this process, also those that Python has not started; 1 where unknown."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 1


class Driver:
    """Answers requests; the trainings that are never killed are made once."""

    def __init__(self, logs: Path) -> None:
        self.logs, self.number = logs, 0
        self.whole: dict[tuple[str, tuple[str, ...]], tuple[dict[str, int], dict[str, str]]] = {}

    def _folder(self) -> Path:
        self.number += 1
        folder = self.logs / str(self.number)
        folder.mkdir(parents=True)
        return folder

    def uninterrupted(self, run: KillRun) -> tuple[dict[str, int], dict[str, str]]:
        """How often the run comes by each place, and its ending, when it is never killed."""
        key = run.name, run.words
        if key not in self.whole:
            folder = self._folder()
            status, result = in_child(partial(train, run, folder / "logs", None), folder)
            if status:
                raise RuntimeError(f"never killed: status {status}: {_output(folder)}")
            self.whole[key] = result
        return self.whole[key]

    def answer(self, run: KillRun) -> dict[str, Any]:
        counts, whole = self.uninterrupted(run)
        draw, folder, kills = random.Random(f"{run.name}{run.words}{run.seed}"), self._folder(), []
        counts = {**counts, "in a save": counts["batch end"] if run.minutes == 0 else 2}
        for left in range(draw.randint(1, 4), -1, -1):
            at = None
            if left:
                place = draw.choice(sorted(counts))
                at = place, draw.randint(1, max(1, counts[place] // (2 if kills else 1)))
            status, result = in_child(partial(train, run, folder / "logs", at), folder)
            if status == 0:
                break
            if status != -signal.SIGKILL:
                return {"error": f"status {status} after {kills}: {_output(folder)}"}
            kills.append(f"{at[0]} {at[1]}" if at else "not by us")
        return {
            "kills": kills,
            "differences": differences(whole, result[1]),
            "output": (folder / "output.txt").read_text(),
            "threads": threads(),
        }


def _output(folder: Path) -> str:
    return (folder / "output.txt").read_text()[-4000:]


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")  # of the loaders' workers
    gc.collect()
    gc.freeze()  # no child collects what was imported
    driver = Driver(Path(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        request["words"] = tuple(request["words"])
        try:
            reply = driver.answer(KillRun(**request))
        except Exception as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)
    os._exit(0)  # some libraries complain of what they leave
