"""The notebooks are stored without outputs; each is executed once, as a reader would, and its outputs are checked."""

from __future__ import annotations

import base64
import re
import runpy
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from src.kindling.config.compose import ROOT
from tests.written import commands, composes, mentioned, missing

NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


class Executed:
    """What the cells of an executed notebook printed and drew, by the cells' ids."""

    def __init__(self, notebook: Any, left: list[str]) -> None:
        self.cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
        self.left = left

    def text(self, cell: str) -> str:
        return "".join(
            output.text for output in self.cells[cell].outputs if output.output_type == "stream"
        )

    def number(self, cell: str, pattern: str) -> float:
        found = re.search(pattern + r"\s*(-?[\d.]+(?:e[+-]?\d+)?%?)", self.text(cell))
        assert found, self.text(cell)
        return float(found[1].rstrip("%")) / (100 if found[1].endswith("%") else 1)

    def images(self) -> Iterator[tuple[str, tuple[int, int], int]]:
        """Cell, width and height, bytes of each plot."""
        for name, cell in self.cells.items():
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    png = base64.b64decode(output.data["image/png"])
                    yield name, struct.unpack(">II", png[16:24]), len(png)


@pytest.fixture(scope="module")
def executed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """A notebook, executed in a copy of the repository, where its runs stay."""
    copy, path = tmp_path_factory.mktemp("repository"), ROOT / f"notebooks/{request.param}.ipynb"
    notebook = runpy.run_path(str(ROOT / "docs" / "build.py"))["execute_in"](copy, path)
    files = [path.relative_to(copy) for path in copy.rglob("*") if path.is_file()]
    return Executed(notebook, [str(path) for path in files if not (ROOT / path).exists()])


def of(name: str) -> pytest.MarkDecorator:
    notebook = pytest.param(name, marks=pytest.mark.long)
    return pytest.mark.parametrize("executed", [notebook], indirect=True)


# ---------------------------------------------------------------------------------------------------------------
# As they are stored


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_stored_without_outputs(name: str) -> None:
    path = ROOT / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, 4)
    assert path.read_text(encoding="utf-8") == nbformat.writes(notebook, indent=1) + "\n"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert [cell.id for cell in notebook.cells if cell.metadata] == []
    assert [
        cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")
    ] == []
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_has_goal_and_next_steps(name: str) -> None:
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    assert cells[0].source.startswith("# ")
    assert "ou will" in cells[0].source or "ou write" in cells[0].source
    assert "It takes less than" in cells[0].source
    assert cells[-1].source.startswith("## Next\n")
    # One idea a cell; what is written into a file is a file's worth.
    long = [
        cell.id
        for cell in cells
        if not cell.source.startswith("%%writefile") and len(cell.source.splitlines()) > 32
    ]
    assert long == []


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("name", NAMES)
def test_notebook_commands_and_paths(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    written = re.findall(
        r"^%%writefile configs/(\w+)\.yaml",
        "\n".join(cell.source for cell in cells),
        flags=re.MULTILINE,
    )
    found = [*commands(text), *mentioned(text)]
    assert len(found) >= 3
    for command in found:
        if not any(f"train {own}" in command for own in written):
            composes(command)
    assert missing(text, ROOT / "notebooks") == []
    others = re.findall(r"`(\d\d_\w+\.ipynb)`", text)
    assert [other for other in others if not (ROOT / "notebooks" / other).exists()] == []


class Shell:
    """Records what a cell hands to IPython."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def system(self, command: str) -> None:
        self.commands.append(command)

    def run_line_magic(self, name: str, line: str) -> None:
        self.commands.append(f"{name} {line}")


@pytest.mark.parametrize("on_colab", [True, False])
def test_first_cell_installs_on_colab_only(
    on_colab: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = nbformat.read(ROOT / "notebooks" / "01_workflow.ipynb", 4).cells
    code = next(cell.source for cell in cells if cell.cell_type == "code")
    shell = Shell()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    if on_colab:
        monkeypatch.setitem(sys.modules, "google.colab", sys)
    # IPython leaves the braces to its shell.
    exec(TransformerManager().transform_cell(code), {"get_ipython": lambda: shell})
    expected = [
        "git clone --quiet --depth 1 {REPOSITORY} kindling",
        "pip install --quiet --editable kindling {installed_torch}",
        "cd -q kindling/notebooks",
    ]
    assert shell.commands == (expected if on_colab else [])


# ---------------------------------------------------------------------------------------------------------------
# What they do


def drawn(executed: Executed, count: int) -> None:
    """Assert at least `count` plots, none of them empty: a blank one of this size has less than 3 kB."""
    images = list(executed.images())
    assert len(images) >= count
    assert [
        name for name, (width, height), size in images if width < 350 or height < 150 or size < 6000
    ] == []


@of("01_workflow")
def test_loop_and_trainer_losses_match(executed: Executed) -> None:
    assert executed.number("equal", "largest difference over 240 batches:") == 0.0
    assert executed.text("module") == "equal outputs: True\n"
    assert executed.text("load") == "before loading: False\nafter loading:  True\n"
    assert executed.number("untrained", "accuracy:") < 0.2
    assert executed.number("loss", "equal probabilities:") == 2.303
    assert executed.number("loss", "our net:") == pytest.approx(2.3, abs=0.2)
    assert executed.number("parameters", "total:") == 64 * 32 + 32 + 32 * 10 + 10
    by_hand, run = executed.number("accuracy", "by hand:"), executed.number("accuracy", "the run:")
    assert by_hand == run > 0.93
    for name in ("precision", "recall", "f1"):
        assert (
            executed.number("scores", rf"{name}\s+by hand")
            == executed.number("scores", rf"{name}.*the run")
            > 0.93
        )
    assert executed.number("export", "largest difference.*images:") < 1e-5
    assert executed.text("use-export").strip() == executed.text("load-run").partition(" and")[0]
    drawn(executed, 11)
    assert all(path.startswith("logs/digits/") for path in executed.left)


@of("01_workflow")
def test_new_drawings_are_predicted(executed: Executed) -> None:
    assert executed.text("new").splitlines() == ["four: 4", "one: 1", "seven: 7", "zero: 0"]


@of("02_linear_regression")
def test_gradient_descent_by_hand_matches_torch(executed: Executed) -> None:
    assert executed.number("torch-loop", "largest difference.*path:") < 1e-12
    by_hand, checked = (
        line.split(":")[1].split() for line in executed.text("gradient").splitlines()[:2]
    )
    assert by_hand == checked
    assert executed.text("autograd").splitlines()[0].split(":")[1].split() == checked
    for cell in ("torch-loop", "layer"):
        assert executed.number(cell, "weight") == pytest.approx(2, abs=0.1)
        assert executed.number(cell, "bias") == pytest.approx(-1, abs=0.1)
    assert executed.number("read", "Regression task: weight") == pytest.approx(2, abs=0.15)
    assert executed.number("read", "Regression task: .*bias") == pytest.approx(-1, abs=0.15)
    assert executed.number("metrics", "test/mae") < 0.2 * executed.number(
        "metrics", "test/mean_predictor_mae"
    )
    drawn(executed, 6)
    assert all(path.startswith("logs/table/") for path in executed.left)


@of("03_fine_tuning")
def test_fine_tuned_backbone_beats_random(executed: Executed) -> None:
    assert executed.number("old", "test accuracy") > 0.97
    assert executed.text("parts").splitlines() == [
        "body   55,904 parameters",
        "head    5,125 parameters",
    ]
    of_head = "finetune: 5,125 of 61,029 parameters are trained; the backbone is frozen"
    assert of_head in executed.text("frozen").splitlines()
    printed = [
        line for line in executed.text("unfrozen").splitlines() if line.startswith("finetune:")
    ]
    assert printed == [
        f"{of_head} until epoch 5",
        "finetune: 61,029 of 61,029 parameters are trained; all at one rate",
    ]
    scratch, unfrozen = (executed.number(cell, "test accuracy") for cell in ("scratch", "unfrozen"))
    assert unfrozen > scratch + 0.1
    drawn(executed, 4)
    assert all(path.startswith("logs/digits/") for path in executed.left)


@of("04_your_own")
def test_own_parts_notebook(executed: Executed) -> None:
    assert executed.text("check").splitlines() == [
        "net.widht: Little has no argument 'widht'; did you mean 'width'? (command line)",
        "task.optimizer.weight_decay: SignDescent has no argument 'weight_decay' (it accepts: params, lr, momentum) "
        "(configs/shapes.yaml)",
    ]
    assert executed.text("mend") == "valid\n"
    assert executed.number("train", "test accuracy") > 0.9
    assert "shapes: Little with " in executed.text("train")
    assert executed.number("compare", "ours") == executed.number("train", "test accuracy")
    assert executed.number("sharpen", "restored images:") < 0.5 * executed.number(
        "sharpen", "coarse images:"
    )
    drawn(executed, 3)
    assert executed.left == []  # all files were in a temporary folder
