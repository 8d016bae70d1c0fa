"""Export: files match the run, for every kind of data; one that does not is not left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import Distribution
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.kindling.config.compose import ROOT
from src.kindling.data.spec import Spec
from src.kindling.deploy import export as module
from src.kindling.deploy import export_model
from src.kindling.deploy.export import export
from src.kindling.deploy.export_files import FILES
from src.kindling.deploy.export_model import ExportModule
from src.kindling.runs.run import Run
from src.kindling.training.trained_run import load_run
from tests.conftest import call, mistakes, train
from tests.kindling.deploy.conftest import WORDS

needs_onnx = pytest.mark.skipif(
    find_spec("onnxscript") is None, reason="the extra 'export' is not installed"
)
# Exported to ONNX in `make test`; the others by `make test-long`.
ONNX = ("digits", "masks")
RunOf = Callable[[str], Run]


@pytest.mark.usefixtures("small_data", "in_this_process")
@pytest.mark.parametrize(
    ("name", "forms"),
    [
        *(
            pytest.param(name, ("onnx",), marks=() if name in ONNX else pytest.mark.long)
            for name in WORDS
        ),
        *(
            pytest.param(
                name,
                ("pt2", "torchscript"),
                marks=pytest.mark.long,
            )
            for name in WORDS
        ),
    ],
)
def test_formats_match_the_run(name: str, forms: tuple[str, ...], run_of: RunOf) -> None:
    if "onnx" in forms and not find_spec("onnxscript"):
        pytest.skip("the extra 'export' is not installed")
    run = run_of(name)
    folder = run.path / "export"
    for form in forms:
        found = export(run, form)[form]
        assert json.loads((folder / f"{form}.json").read_text()) == found
        assert found["difference"] <= 1e-5
        assert found["agreement"] == (1.0 if run.spec.classes else None)
        assert found["bytes"] == (folder / FILES[form]).stat().st_size
        assert list(found["milliseconds"]) == ["1", "2", "7", "64"]
        assert found["input"]["shape"] == ["batch", *run.spec.raw_shape]
        assert found["output"]["name"] == ("probability" if run.spec.classes else "value")
        assert found["output"]["shape"] == ["batch", *run.task.outputs.shape]
        assert found["output"]["names"] == list(run.spec.names)
    names = [name for form in forms for name in (FILES[form], f"{form}.json")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


@needs_onnx
def test_onnx_without_torch_and_int8(
    run_of: RunOf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("digits")
    asked: list[list[str]] = []
    real = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda words, **options: (asked.append(words), real(words, **options))[1]
    )
    found = call("export", "latest", "--int8")
    assert isinstance(found, dict)
    assert [words[3] for words in asked] == ["onnx", "int8"]
    assert found["onnx"]["difference"] <= 1e-5
    folder = run.path / "export"
    assert sorted(path.name for path in folder.iterdir()) == [
        "int8.json",
        "model.int8.onnx",
        "model.onnx",
        "onnx.json",
    ]
    small = json.loads((folder / "int8.json").read_text())
    assert small == found["int8"]
    assert small["metric"] == "accuracy"
    assert small["before"] == pytest.approx(
        call("evaluate", "latest", "--split", "test")["test/accuracy"], abs=0.2
    )  # type: ignore[index]
    assert small["before"] > 0.9
    assert small["after"] == pytest.approx(small["before"], abs=0.02)
    assert 1e-5 < small["difference"] < 0.2
    assert small["bytes"] < 0.5 * small["bytes_before"] == 0.5 * found["onnx"]["bytes"]
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("model.onnx: "))
    assert lines[start].endswith(" kB, uint8 (batch, 1, 8, 8) to probability")
    assert lines[start + 1].startswith("  verified 64 samples: largest difference ")
    assert lines[start + 1].endswith(", 100% of the classes agree")
    assert lines[start + 2].startswith("  speed    ")
    assert [
        line
        for line in lines
        if line.startswith(
            f"  int8     accuracy {small['after']:.4f}, before {small['before']:.4f}; "
        )
    ]
    assert f"saved      {folder}" in lines


def test_short_times_are_not_zero(
    run_of: RunOf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of("digits")
    report = {
        "file": "model.onnx",
        "bytes": 1000,
        "samples": 64,
        "difference": 0.0,
        "agreement": None,
        "input": {"type": "uint8", "shape": [1]},
        "output": {"name": "value"},
        "milliseconds": {"1": 0.00421, "7": 0.25, "64": 129.87},
    }
    monkeypatch.setattr("src.kindling.deploy.export.export", lambda *_: {"onnx": report})
    call("export", "latest")
    lines = capsys.readouterr().out.splitlines()
    assert "  speed    0.0042 ms for 1, 0.25 ms for 7, 129.9 ms for 64" in lines


@needs_onnx
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.long
def test_int8_mae(run_of: RunOf) -> None:
    found = export(run_of("diabetes"), int8=True)["int8"]
    assert found["metric"] == "mae"
    assert found["after"] == pytest.approx(found["before"], rel=0.1)


@pytest.mark.parametrize("form", ["pt2", "torchscript"])
@pytest.mark.long
def test_other_formats_in_a_fresh_process(
    form: str, run_of: RunOf, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of("diabetes")
    found = call("export", "latest", "--format", form)
    assert isinstance(found, dict)
    assert found[form]["difference"] <= 1e-5
    deprecated = "torchscript is deprecated in PyTorch; use --format pt2\n"
    assert (deprecated in capsys.readouterr().out) == (form == "torchscript")


def test_version_of_the_engine_in_a_project_of_another_name(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Distribution.from_name
    renamed = {"kindling": "leaf-disease"}
    monkeypatch.setattr(Distribution, "from_name", lambda name: find(renamed.get(name, name)))
    run = load_run(run_of("digits").path)
    (model,) = export_model.build_models(run, run.data(), "pt2")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert model.facts["kindling"] == project["version"]


@needs_onnx
@pytest.mark.usefixtures("in_this_process")
def test_file_metadata(run_of: RunOf) -> None:
    from onnxruntime import InferenceSession

    run = run_of("table")
    export(run)
    path = run.path / "export" / "model.onnx"
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(one.name, one.type, one.shape) for one in session.get_inputs()] == [
        ("input", "tensor(double)", ["batch", 4])
    ]
    assert [(one.name, one.type, one.shape) for one in session.get_outputs()] == [
        ("value", "tensor(float)", ["batch", 1])
    ]
    told = session.get_modelmeta().custom_metadata_map
    assert Spec.from_plain(json.loads(told["spec"])) == run.spec
    assert told["run"] == f"table/{run.path.name}"
    assert json.loads(told["classes"]) == []
    assert str(ROOT).encode() not in path.read_bytes()

    export(run, "pt2")
    extra = {"kindling.json": ""}
    torch.export.load(run.path / "export" / "model.pt2", extra_files=extra)
    assert Spec.from_plain(json.loads(extra["kindling.json"])["spec"]) == run.spec


# ---------------------------------------------------------------------------------------------------------------
# What is not exported


class Wrong(nn.Module):
    """Another module than the run's: `change` spoils its task."""

    def __init__(self, run: Run, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.inner = ExportModule(run, run.task.outputs)
        self.eval()
        change(self.inner)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


CHANGES: dict[str, Callable[[Any], object]] = {
    "a wrong mean": lambda whole: whole.preprocess.mean.add_(1.0),
    "no number": lambda whole: whole.task.net.head.bias.fill_(float("nan")),
    "a wrong weight": lambda whole: whole.task.net.head.bias[0].add_(0.1),
    "dropout": lambda whole: whole.task.net.body[-1].train(),
}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("form", "change"),
    [
        pytest.param(
            "onnx", "a wrong mean", marks=needs_onnx
        ),  # its exporter leaves dropout out, whatever the mode
        *(
            pytest.param("pt2", change, marks=() if change == "dropout" else pytest.mark.long)
            for change in CHANGES
        ),
    ],
)
def test_different_outputs_leave_no_file(
    form: str, change: str, run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("digits")
    monkeypatch.setattr(export_model, "ExportModule", lambda run, _: Wrong(run, CHANGES[change]))
    (line,) = mistakes("export", "latest", "--format", form)
    assert line.startswith(
        f"{FILES[form]}: not exported: its outputs differ from the run's by up to "
    )
    assert "1e-05 is allowed; remove random operations" in line
    assert not (run.path / "export").exists()


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.long
def test_values_are_compared_by_target_std_and_an_earlier_export_stays(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("diabetes")
    export(run, "pt2")
    before = (run.path / "export" / "model.pt2").read_bytes()
    for share, refused in ((5e-6, False), (2e-5, True)):
        step = share * run.spec.target_std[0]
        monkeypatch.setattr(
            export_model,
            "ExportModule",
            lambda run, _, step=step: Wrong(run, lambda whole: whole.task.scale.mean.add_(step)),
        )
        if refused:
            (line,) = mistakes("export", "latest", "--format", "pt2")
            assert "by up to 2e-05 of the target's standard deviation, and 1e-05 is allowed" in line
            assert (run.path / "export" / "model.pt2").read_bytes() == before
        else:
            assert export(run, "pt2")["pt2"]["difference"] == pytest.approx(share, rel=0.3)
            before = (run.path / "export" / "model.pt2").read_bytes()
    assert sorted(path.name for path in (run.path / "export").iterdir()) == [
        "model.pt2",
        "pt2.json",
    ]


def test_file_that_cannot_be_loaded(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("digits")
    monkeypatch.setitem(module.WRITERS, "pt2", lambda model, path: path.write_bytes(b"no archive"))
    (line,) = mistakes("export", "latest", "--format", "pt2")
    assert line.startswith("model.pt2: not exported: a fresh process cannot use it: ")
    assert not (run.path / "export").exists()


def test_net_that_cannot_be_exported(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().flatten(1) * (2 if x.float().sum() > 0 else 3)

    run = run_of("digits")
    monkeypatch.setattr(export_model, "ExportModule", lambda run, _: Branches())
    (line,) = mistakes("export", "latest", "--format", "pt2")
    assert line.startswith("CNN cannot be exported as pt2: ")
    assert not (run.path / "export").exists()


def test_invalid_flags_and_missing_packages(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of("digits")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name != "onnx" else sys)
    assert mistakes("export", "latest") == [
        "--format onnx needs onnxscript, onnxruntime; install the extra: pip install -e '.[export]'"
    ]
    assert mistakes("export", "latest", "--format", "pt2", "--int8") == [
        "--int8: is made from ONNX; leave out --format pt2"
    ]
    assert mistakes("export", "latest", "--format", "tflite")[0].startswith(
        "--format: invalid choice: 'tflite'"
    )
    assert not (load_run("latest").path / "export").exists()


@needs_onnx
@pytest.mark.usefixtures("small_data", "in_this_process")
def test_image_preparation_in_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime import InferenceSession

    from src.kindling.data.images import prepare

    words = ["image_folder", "data.root=~/cards", "data.size=12", "data.resize_mode=pad"]
    run = train(
        *words, "data.eval_transforms=[{_target_: torchvision.transforms.v2.Pad, padding: 0}]"
    ).run
    export(run)
    told = InferenceSession(run.path / "export" / "model.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(told["prepare"]) == {
        "channels": 1,
        "size": 12,
        "fit": "pad",
        "whole": False,
        "max_value": 255.0,
        "steps": [{"do": "pad", "border": [0, 0, 0, 0], "value": 0}],
    }
    monkeypatch.setattr(
        prepare, "make_square", lambda image, size, fit: image.resize((size, size)).rotate(90)
    )
    (line,) = mistakes("export", "latest")
    assert line.startswith(
        "data.eval_transforms: a test sample prepared without torch differs from the run's own by up to "
    )


@needs_onnx
@pytest.mark.usefixtures("small_data")
def test_transforms_that_need_torch_are_refused() -> None:
    train(
        "image_folder",
        "data.root=~/cards",
        "data.eval_transforms=[{_target_: torchvision.transforms.v2.GaussianBlur, kernel_size: 3}]",
    )
    assert mistakes("export", "latest") == [
        "data.eval_transforms[0]: torchvision.transforms.v2.GaussianBlur is not supported; the server has no torch: use "
        "Resize, CenterCrop, Pad, Grayscale or ToDtype, or export with --format pt2"
    ]
    assert not (load_run("latest").path / "export").exists()


@pytest.mark.usefixtures("in_this_process")
def test_report_lists_exports(run_of: RunOf) -> None:
    from src.kindling.analysis.report import report

    run = run_of("digits")
    assert "Exports" not in report(run).read_text()
    call("export", "latest", "--format", "pt2")
    page = (run.path / "report.html").read_text()
    found = json.loads((run.path / "export" / "pt2.json").read_text())
    assert "<h2>Exports</h2>" in page
    assert f'<td>model.pt2</td><td class="n">{found["bytes"] / 1000:,.0f}</td>' in page
    assert f"{found['difference']:.1e}</td>" in page
