"""What the tests share: a logs/ of their own, and commands called in-process or as real processes."""

from __future__ import annotations

import os
import signal

# Threads that wait for the next operation by spinning take the cores from the tests beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A shell has what it starts in the background ignore Ctrl-C, and so would the processes of the tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import functools
import gc
import importlib
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from src.kindling.config import instantiate
from src.kindling.config.compose import ROOT, Config, compose, get
from src.kindling.config.errors import InputError
from src.kindling.config.targets import locate
from src.kindling.runs import provenance
from src.kindling.runs import run as run_module
from src.kindling.runs.run import Run
from tests.file_server import Server
from tests.forked import run_forked

# Functions import torch: pytest-xdist's controller runs no test, and starts the workers 4 s earlier without it.
if TYPE_CHECKING:
    from torch import Tensor

    from src.kindling.data import DataModule, Stage
    from src.kindling.training.fit import Result

# With Python's own thresholds, and during imports, garbage collection takes a tenth of the time.
gc.disable()
gc.set_threshold(50_000, 20, 20)

# A few batches of two epochs: enough for every part to be used, and quick.
LITTLE = (
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
    "num_threads=1",
    "trainer.accelerator=cpu",
)
FEW_SCENES = "data.scenes=[96,32,32]"  # two thousand take two seconds to compose


def has_samples(name: str) -> bool:
    """Whether a config's data are the template's, with all samples in memory or in files."""
    from src.kindling.data import DataModule

    target = get(compose(name, []).values, "data._target_") or ""
    own = target.startswith(("src.data.", "src.kindling."))
    return own and issubclass(locate(target), DataModule)


def pytest_collection_finish() -> None:
    """What the imports left is not walked again, which takes 0.3 s each time."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Without it, the end of the process lists what triton did not free."""
    gc.unfreeze()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """A process of pytest-xdist has sent its results; Python would take 3 s to free what it has imported."""
    if hasattr(config, "workerinput"):
        os._exit(0)


@pytest.fixture(autouse=True, scope="session")
def git_state() -> Iterator[None]:
    """Git is asked once for the state of this repository, which no test changes; each training asks seven times."""
    ask = provenance.git

    @functools.cache
    def cached(*arguments: str, check: bool) -> str:
        return ask(*arguments, check=check)

    def git(*arguments: str, check: bool = True) -> str:
        return (cached if provenance.ROOT == ROOT else ask)(*arguments, check=check)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "git", git)
        yield


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server for what a test has downloaded."""
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.go_on.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty logs/ for each test."""
    folder = tmp_path / "logs"
    folder.mkdir()
    monkeypatch.setattr(run_module, "LOGS", folder)
    monkeypatch.delenv("KINDLING_RUN", raising=False)
    return folder


def checked(name: str = "digits", *words: str) -> Config:
    """A composed and checked config."""
    config = compose(name, words)
    instantiate.check(config)
    return config


def numbered_batches(
    data: DataModule, stage: Stage, epoch: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The batches of a stage, with the numbers of their samples."""
    loader = data.loader(stage)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    for number, (x, y) in enumerate(loader):
        yield data.sample_numbers(stage, epoch, number), x, y


def train(name: str = "digits", *words: str, plots: bool = True, **options: object) -> Result:
    """A little training in this process."""
    from src.kindling.analysis.plots import Plots
    from src.kindling.training.fit import fit

    config = checked(name, *LITTLE, *words)
    run = Run.claim(config.name)
    return fit(config, run, plots=Plots(run) if plots else None, **options)  # type: ignore[arg-type]


def call(verb: str, *argv: str) -> object:
    """A command's main, in this process."""
    return importlib.import_module(f"src.{verb}").main(list(argv))


def mistakes(verb: str, *argv: str) -> list[str]:
    """The lines that a command ends with when it is called wrongly."""
    with pytest.raises(InputError) as caught:
        call(verb, *argv)
    return caught.value.lines


@pytest.fixture(autouse=True)
def no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of the tests draw nothing, but for those that are marked `plots`: drawing takes a second."""
    if not request.node.get_closest_marker("plots"):
        draw_nothing(monkeypatch)


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings leave no plots and no report."""
    monkeypatch.setattr("src.kindling.analysis.plots.Plots.draw", lambda *_, **__: [])
    monkeypatch.setattr("src.kindling.analysis.plots.Plots.draw_before", lambda *_: None)
    monkeypatch.setattr("src.kindling.analysis.plots.Plots.write_report", lambda _: None)


@contextmanager
def kept_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A logs/ for trainings that the tests of a module share; they draw nothing."""
    logs = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "LOGS", logs)
        patch.delenv("KINDLING_RUN", raising=False)
        draw_nothing(patch)
        yield logs


def copied(run: Run) -> Run:
    """A copy of a run in the logs/ of this test."""
    from src.kindling.training.trained_run import load_run

    copy = run_module.LOGS / run.path.parent.name / run.path.name
    shutil.copytree(run.path, copy)
    return load_run(copy)


@pytest.fixture(scope="session")
def small_files(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, dict[str, object]]]:
    """A folder whose data/ holds a little of what the configs would download, in the real formats; and what
    torchvision has to believe of it."""
    from PIL import Image
    from sklearn.datasets import load_diabetes, load_digits
    from torchvision import datasets

    from tests import make_cifar, make_masks, make_mnist, make_shards

    root = tmp_path_factory.mktemp("small")
    for name in ("MNIST", "FashionMNIST"):
        make_mnist.write(root / "data" / name / "raw", 600, 300)
    images, digits = load_digits(return_X_y=True)
    for i, (image, digit) in enumerate(zip(images[:120], digits[:120], strict=True)):
        folder = root / "cards" / f"digit {digit}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15.9).astype("uint8")).resize((16, 16)).save(
            folder / f"{i}.png"
        )
    make_masks.write(root / "scans", 120)
    make_shards.write_digits(root / "shards", "parquet", 300)
    diabetes = load_diabetes(scaled=False)
    rows = [
        ",".join(map(str, [*values, target]))
        for values, target in zip(diabetes.data, diabetes.target, strict=True)
    ]
    (root / "houses.csv").write_text(
        "\n".join([",".join([*diabetes.feature_names, "price"]), *rows]) + "\n"
    )
    return root, {
        known.__name__: make_cifar.write(root / "data", known, 1000, 200)
        for known in (datasets.CIFAR10, datasets.CIFAR100)
    }


@pytest.fixture
def small_data(
    small_files: tuple[Path, dict[str, dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """For tests that train any config: relative paths of its data lead into this folder, which holds a data/."""
    return lead(small_files, monkeypatch)


def lead(
    small_files: tuple[Path, dict[str, dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Let the data's relative paths lead into the folder of `small_files`."""
    root, believed = small_files
    monkeypatch.setattr("src.kindling.data.paths.ROOT", root)
    monkeypatch.setattr("src.kindling.data.images.image_data.DATA", root / "data")
    monkeypatch.setenv("HOME", str(root))
    for name, attributes in believed.items():
        for attribute, value in attributes.items():
            monkeypatch.setattr(f"torchvision.datasets.{name}.{attribute}", value)
    return root


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the repository, for processes that write into it."""
    copy = tmp_path / "repository"
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def command(repository: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Calls `python …` in the copy of the repository, as a user would."""

    def run(
        *argv: str, cwd: Path = repository, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *argv],
            cwd=cwd,
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
        )

    return run


@pytest.fixture
def forked_command(repository: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `command`, for commands that import torch: the process is a fork that has done so already."""

    def run(*argv: str, cwd: Path = repository) -> subprocess.CompletedProcess[str]:
        return run_forked(*argv, cwd=cwd)

    return run


def as_own_task(task: type, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let a class of a test be found as one of src/tasks/; the word that names it."""
    from src import tasks

    name = f"src.tasks.{task.__name__.lower()}"
    module = types.ModuleType(name)
    setattr(module, task.__name__, task)
    monkeypatch.setattr(task, "__module__", name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(tasks, task.__name__.lower(), module, raising=False)
    return f"task._target_={name}.{task.__name__}"


def folders(path: Path) -> Sequence[str]:
    """The runs that a logs/ holds, as `<config>/<time>`."""
    return sorted(f"{run.parent.name}/{run.name}" for run in path.glob("*/*"))
