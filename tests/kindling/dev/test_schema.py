"""The JSON schemas of configs: all configs validate, and mistakes that the engine refuses are refused."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, ValidationError
from omegaconf import OmegaConf

from src.kindling.config.compose import CONFIGS, PARTS, ROOT, VALUES, groups
from src.kindling.config.errors import InputError
from src.kindling.config.targets import load
from src.kindling.config.values import to_plain
from src.kindling.dev import schema as schema_module
from src.kindling.dev.schema import config_schema, describe_arguments
from tests.conftest import call

FILES = sorted(CONFIGS.rglob("*.yaml"))


@functools.cache
def validator(kind: str) -> Draft7Validator:
    return Draft7Validator(config_schema(kind))


def messages(errors: Iterable[ValidationError]) -> Iterator[str]:
    """The messages of errors, and of the alternatives that all failed."""
    for error in errors:
        yield error.message
        yield from messages(error.context or ())


def refusals(kind: str, text: str) -> str:
    return "\n".join(messages(validator(kind).iter_errors(to_plain(OmegaConf.create(text)))))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_config_validates(path: Path) -> None:
    kind = "experiment" if path.parent == CONFIGS else path.parent.name
    assert refusals(kind, path.read_text()) == ""


EXPERIMENT = "defaults:\n  - data: digits\n  - net: cnn\n  - task: classification\n"


@pytest.mark.parametrize(
    ("kind", "text", "refusal"),
    [
        ("experiment", "sed: 1", "'sed' was unexpected"),
        ("experiment", "seed: -1", "-1 is less than the minimum of 0"),
        ("experiment", "tags: small", "'small' is not of type 'array'"),
        ("experiment", "mode: lowest", "'lowest' is not one of ['min', 'max']"),
        ("experiment", "task: null", "None is not valid"),
        ("experiment", "defaults:\n  - net: cnnn", "'cnnn' is not one of ['cnn', 'mlp',"),
        ("experiment", "defaults:\n  - nett: cnn", "'nett' was unexpected"),
        ("experiment", "defaults:\n  - digit", "'digit' is not one of ['_self_', 'anomaly',"),
        ("experiment", "trainer:\n  max_epoch: 3", "'max_epoch' was unexpected"),
        ("experiment", "trainer:\n  max_epochs: three", "'three' is not of type 'integer'"),
        ("experiment", "trainer:\n  callbacks: []", "'callbacks' was unexpected"),
        ("experiment", EXPERIMENT + "net:\n  channel: [8]", "'channel' was unexpected"),
        ("experiment", EXPERIMENT + "net:\n  channels: 8", "8 is not of type 'array'"),
        ("experiment", EXPERIMENT + "net:\n  global_pool: min", "'min' is not one of"),
        ("experiment", EXPERIMENT + "data:\n  split: [0.9, 0.1]", "[0.9, 0.1] is too short"),
        ("experiment", EXPERIMENT + "task:\n  optimizer:\n    lrr: 1", "'lrr' was unexpected"),
        ("experiment", EXPERIMENT + "task:\n  optimizer:\n    lr: fast", "'fast' is not of type"),
        (
            "experiment",
            EXPERIMENT + "task:\n  optimizer: {_target_: torch.optim.SGD, betas: [0, 1]}",
            "'betas' was unexpected",
        ),
        (
            "experiment",
            "data: {_target_: src.gallery.vae.DigitPixels, batchsize: 1}",
            "'batchsize' was unexpected",
        ),
        (
            "experiment",
            "callbacks:\n  stop: {_target_: lightning.pytorch.callbacks.EarlyStopping, patient: 1}",
            "'patient' was unexpected",
        ),
        (
            "experiment",
            EXPERIMENT
            + "data:\n  train_transforms:\n    - {_target_: src.kindling.data.augment.RandomCrop, pad: 1}",
            "'pad' was unexpected",
        ),
        ("net", "_target_: src.nets.cnn.CNN\nchanels: [8]", "'chanels' was unexpected"),
        ("data", "_target_: src.data.digits.Digits\ncanvas: wide", "'wide' is not of type"),
        ("trainer", "defaults: [defalt]", "'defalt' is not one of"),
        ("trainer", "device: 1", "'device' was unexpected"),
        (
            "logger",
            "csv: {_target_: lightning.pytorch.loggers.CSVLogger, dir: a}",
            "'dir' was unexpected",
        ),
        ("space", "net.dropout: {low: 0.0, hihg: 0.5}", "'hihg' was unexpected"),
    ],
)
def test_mistake_is_refused(kind: str, text: str, refusal: str) -> None:
    assert refusal in refusals(kind, text)


@pytest.mark.parametrize(
    "text",
    [
        "seed: ${oc.env:SEED}",
        EXPERIMENT + "net:\n  channels: ${tags}\n  dropout: ${data.share}",
        EXPERIMENT + "net: null\nfinetune: null\ncallbacks:\n  early_stopping: null",
        EXPERIMENT + "net:\n  _target_: src.nets.mlp.MLP\n  hidden: [8]",
        EXPERIMENT + "net:\n  _target_: my_package.Net\n  anything: 1",
        "defaults:\n  - digits\ntask:\n  optimizer:\n    lr: 1e-2",
        EXPERIMENT + "task:\n  metrics:\n    f1: {_target_: torchmetrics.F1Score, task: binary}",
    ],
)
def test_correct_config_is_accepted(text: str) -> None:
    assert refusals("experiment", text) == ""


def test_schema_is_valid() -> None:
    Draft7Validator.check_schema(validator("experiment").schema)


def test_schema_describes_each_key() -> None:
    schema = validator("experiment").schema
    keys = schema["properties"]
    assert [*keys] == ["defaults", *VALUES, *PARTS]
    assert [key for key, about in keys.items() if not about.get("description")] == []
    assert keys["checkpoint_minutes"]["default"] == 10.0
    assert keys["monitor"]["description"].startswith("the metric that picks the best checkpoint")
    net = schema["definitions"]["src.nets.cnn.CNN"]
    assert net["description"].startswith("Blocks of convolution")
    assert net["properties"]["channels"]["default"] == [32, 64]
    assert net["properties"]["dropout"]["description"] == (
        "share of the features before the head that is dropped in training."
    )


def test_arguments_of_bases_and_libraries_are_described() -> None:
    from src.data.digits import Digits

    about = describe_arguments(Digits)
    assert about["canvas"].startswith("height and width of an empty canvas")
    assert about["sampler"] == (
        "`balanced` draws training samples so that all classes are equally frequent."
    )
    definitions = validator("experiment").schema["definitions"]
    assert "rate" in definitions["torch.optim.AdamW"]["properties"]["lr"]["description"]
    trainer = definitions["lightning.pytorch.Trainer"]["properties"]
    assert trainer["max_epochs"]["description"].startswith("Stop training once this number")


def test_command_writes_the_schemas_that_the_editor_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schema_module, "FOLDER", tmp_path / "schemas")
    monkeypatch.setattr(schema_module, "config_schema", lambda name: validator(name).schema)
    call("schema")
    written = {path.name for path in (tmp_path / "schemas").iterdir()}
    settings = json.loads((ROOT / ".vscode" / "settings.json").read_text())
    associations: dict[str, Any] = settings["yaml.schemas"]
    assert {Path(name).name for name in associations} == written
    for name, pattern in associations.items():
        assert Path(name).parent == Path(".vscode/schemas")
        assert [*ROOT.glob(pattern)] != []
    assert written == {"experiment.json", "space.json", *(f"{group}.json" for group in groups())}
    assert "experiment.json" in capsys.readouterr().out


def test_option_with_a_number_for_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    monkeypatch.setattr("src.kindling.config.compose.CONFIGS", tmp_path / "configs")
    shutil.copy(CONFIGS / "net" / "mlp.yaml", tmp_path / "configs" / "net" / "18.yaml")
    builder = schema_module._Builder()
    assert builder.option_chosen("net", "18")["then"] == builder.option_chosen("net", "mlp")["then"]


def test_damaged_files_among_the_known_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "latin.yaml").write_bytes(b"# gr\xf6\xdfe\n_target_: torch.nn.ReLU\n")
    monkeypatch.setattr(schema_module, "CONFIGS", tmp_path / "configs")
    assert [*schema_module._written_targets()] == ["torch.nn.ReLU"]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("x = (\n")
    monkeypatch.setattr("src.nets.__path__", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"^importing 'src.nets.broken' failed: SyntaxError: "):
        [*schema_module._public_classes()]


def test_module_that_cannot_be_imported_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*kinds: type) -> list[str]:
        load("src.nets.none_here")
        return []

    monkeypatch.setattr(schema_module, "targets_of", fail)
    with pytest.raises(InputError) as caught:
        config_schema("finetune")
    assert caught.value.lines == ["schemas: 'src.nets' has no 'none_here'"]
