"""Responses to valid requests: predictions as the run makes them, and the decision."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch

from src.kindling.config.errors import InputError
from src.kindling.data.spec import Column
from src.kindling.data.tables.encode import encode_frame
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Model
from src.kindling.deploy.serving.rows import RowDecoder
from src.kindling.runs.run import Run
from tests.kindling.deploy.serving.server_process import (
    Server,
    encode,
    file_of,
    form,
)


def test_predict_image_matches_run(digits: Run, images: Server) -> None:
    data, classes = digits.data(), digits.spec.classes
    x = data.samples.x[data.indices["test"][:5]]
    expected = digits.predict(x)["probability"].numpy()
    files = [encode((image[0].numpy() * (255 / 16)).round().astype(np.uint8)) for image in x]
    status, several = images.request("/predict/batch", *form(*files, name="files"))
    assert status == 200
    for file, row, response in zip(files, expected, several["predictions"], strict=True):
        assert list(response["probabilities"].values()) == pytest.approx(row, abs=1e-6)
        assert list(response["probabilities"]) == list(classes)
        assert response["prediction"] == classes[row.argmax()]
        assert response["probability"] == pytest.approx(row.max(), abs=1e-6)
        for request in ((file,), form(file)):
            status, single = images.request("/predict", *request)
            assert status == 200
            assert single["probabilities"] == pytest.approx(response["probabilities"], abs=1e-6)
            assert set(single) == {*response, "milliseconds"}


def test_predict_rows_matches_run(houses: Run, tables: Server) -> None:
    rows = [
        {"size": 3, "rooms": 2.5, "color": "red", "new": True},
        {"new": False, "color": None, "rooms": None, "size": -1e3},
        {"size": "4", "rooms": 0, "color": "blue", "new": "true"},
        {"size": 1, "rooms": None, "color": "green", "new": None},
    ]
    x = encode_frame(pd.DataFrame(rows), houses.spec.columns)
    expected = houses.predict(torch.from_numpy(x))["prediction"][:, 0].tolist()
    for path in ("/predict", "/predict/batch"):
        status, several = tables.request(path, json.dumps(rows).encode())
        assert status == 200
        values = [response["prediction"] for response in several["predictions"]]
        assert values == pytest.approx(expected, rel=1e-5)
        assert {response["target"] for response in several["predictions"]} == {"price"}
        (note,) = several["notes"]
        assert note.startswith("color: ")
        assert "'green'" in note
    for row, value in zip(rows, expected, strict=True):
        response = tables.request("/predict", json.dumps(row).encode())[1]
        assert response["prediction"] == pytest.approx(value, rel=1e-5)
    (note,) = tables.request("/predict", json.dumps({**rows[0], "id": 7}).encode())[1]["notes"]
    assert note.endswith(": id")


def test_rows_are_encoded_as_tables_are() -> None:
    """The server has no pandas."""
    cells = {
        "size": [None, 1, 2.5, -3, " 7 ", "1e3", ".5", "1.", "+4", 1e30, 12345678901234567],
        "color": [None, 1, 1.0, 2.5, True, False, "None", "blue", "new", 2**70, "", 3.0],
        "new": [None, True, False, 0, 1, 1.0, "true", "FALSE", "1", "0", "True"],
    }
    columns = (
        Column("size"),
        Column("color", "category", ("1", "2.5", "None", "True", "blue")),
        Column("new", "boolean"),
    )
    decode = RowDecoder(columns, Limits())
    rows = [dict(zip(cells, values, strict=True)) for values in product(*cells.values())]
    for start in range(0, len(rows), 100):
        part = rows[start : start + 100]
        found = decode("application/json", json.dumps(part).encode(), True)
        expected = encode_frame(pd.DataFrame(part, dtype=object), columns)
        assert np.array_equal(found.x, expected, equal_nan=True)


def edit_metadata(source: Path, target: Path, **texts: Any) -> Model:
    """A model whose metadata differ; None removes an entry."""
    proto = onnx.load(source)
    old = {prop.key: prop.value for prop in proto.metadata_props}
    new = {
        name: text if isinstance(text, str) else json.dumps(text) for name, text in texts.items()
    }
    kept = {name: text for name, text in (old | new).items() if text != "null"}
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, kept)
    onnx.save(proto, target)
    return Model(target, 1)


def test_decision_from_metadata(digits: Run, scenes: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    outputs = np.eye(10, dtype=np.float32)[[3]] * 0.5 + 0.05
    model = edit_metadata(file_of(digits), path, decision={"kind": "argmax"})
    (response,) = model.responses.format(outputs)
    assert (response["prediction"], response["probability"]) == ("3", 0.55)
    for value, labels in ((0.5, ["3"]), (0.6, [])):
        decision = {"kind": "threshold", "value": value}
        model = edit_metadata(file_of(digits), path, decision=decision)
        (response,) = model.responses.format(outputs)
        assert response["prediction"] == labels
        assert len(response["probabilities"]) == 10
    model = edit_metadata(file_of(digits), path, decision={"kind": "none"})
    (response,) = model.responses.format(outputs)
    assert response["prediction"]["3"] == 0.55
    for decision in ({"kind": "median"}, {"kind": "threshold"}, {}, "no JSON"):
        with pytest.raises(InputError, match=r"export the run again: python -m src\.export"):
            edit_metadata(file_of(digits), path, decision=decision)
    with pytest.raises(InputError, match="export the run again"):
        edit_metadata(file_of(scenes), path, decision={"kind": "none"})


def test_decision_of_old_files_by_target(digits: Run, tmp_path: Path) -> None:
    spec = json.loads(Model(file_of(digits), 1).session.get_modelmeta().custom_metadata_map["spec"])
    path = tmp_path / "model.onnx"

    def respond(outputs: list[float], **changes: Any) -> Any:
        changed = json.dumps(spec | changes)
        model = edit_metadata(file_of(digits), path, decision=None, spec=changed)
        (response,) = model.responses.format(np.array([outputs], dtype=np.float32))
        return response

    rest = [f"other {i}" for i in range(7)]
    names = {"classes": ["cat", "dog", "sea", *rest]}
    response = respond([0.25, 0.5, 0.25] + 7 * [0.0], **names)
    assert (response["prediction"], response["probability"]) == ("dog", 0.5)
    response = respond([0.75, 0.625, 0.5] + 7 * [0.0], **names, target_shape=[10])
    assert response["prediction"] == ["cat", "dog"]
    expected = {"cat": 0.75, "dog": 0.625, "sea": 0.5} | dict.fromkeys(rest, 0.0)
    assert response["probabilities"] == expected
    place = {"classes": [], "class_counts": [], "target": "place"}
    response = respond([1.5, -2.0] + 8 * [0.0], **place, targets=["x", "y", "z", *rest])
    assert response["prediction"] == {"x": 1.5, "y": -2.0, "z": 0.0} | dict.fromkeys(rest, 0.0)
    assert response["target"] == "place"


def test_old_name_of_the_largest_value(digits: Run, tmp_path: Path) -> None:
    model = Model(file_of(digits), 1)
    prepare = json.loads(model.session.get_modelmeta().custom_metadata_map["prepare"])
    prepare["white"] = prepare.pop("max_value")
    old = edit_metadata(file_of(digits), tmp_path / "model.onnx", prepare=prepare)
    assert old.prepare == model.prepare


LARGE_RESIZE = {"do": "resize", "size": [9000], "longest": None, "how": "BILINEAR"}
LARGE_PAD = {"do": "pad", "border": [9000] * 4, "value": 0}
# The changed fields, or the whole text, and a part of the reason.
DAMAGED: list[tuple[str, Any, str]] = [
    ("spec", "{}", "spec: KeyError: 'columns'"),
    ("spec", "[" * 5000, "spec: Invalid JSON"),
    (
        "spec",
        {"num_outputs": 10**30},
        "spec: num_outputs: Input should be less than or equal to 1000000",
    ),
    ("spec", {"num_outputs": "ten"}, "spec: num_outputs: Input should be a valid integer"),
    ("spec", {"classes": ["0"]}, "spec: num_outputs: 10, and 1 names"),
    ("spec", {"classes": ["0"] * 10}, "spec has 1 names for 10 outputs"),
    ("spec", {"classes": [[]] * 10}, "spec: classes.0: Input should be a valid string"),
    ("spec", {"columns": [7]}, "spec: AttributeError: "),
    ("spec", {"kind": "sound"}, "spec: kind: Input should be 'image', 'table' or 'sequence'"),
    ("prepare", " null", "no image file has the input shape (1, 8, 8)"),
    ("prepare", {"size": 10**9}, "prepare.size: Input should be less than or equal to 10000"),
    ("prepare", {"size": 9}, "shape (1, 9, 9), and the input (1, 8, 8)"),
    ("prepare", {"channels": 4}, "prepare.channels: Input should be 1 or 3"),
    ("prepare", {"steps": [{"do": "run"}]}, "prepare.steps.0: Input tag 'run'"),
    ("prepare", {"steps": [{"do": "crop"}]}, "prepare.steps.0.crop.size: Field required"),
    ("prepare", {"steps": [LARGE_RESIZE]}, "more than 20,000,000 pixels"),
    ("prepare", {"steps": [LARGE_PAD] * 20}, "more than 20,000,000 pixels"),
    ("decision", '{"kind": "threshold", "value": NaN}', "decision.value: Input should be a finite"),
]


@pytest.mark.parametrize(("key", "change", "reason"), DAMAGED)
def test_damaged_metadata_is_one_line(
    key: str, change: Any, reason: str, digits: Run, tmp_path: Path
) -> None:
    if isinstance(change, dict):
        texts = Model(file_of(digits), 1).session.get_modelmeta().custom_metadata_map
        change = json.loads(texts[key]) | change
    path = tmp_path / "model.onnx"
    with pytest.raises(InputError) as caught:
        edit_metadata(file_of(digits), path, **{key: change})
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: cannot be served: ")
    assert reason in line
    assert line.endswith("; export the run again: python -m src.export RUN")
    assert len(line) < len(str(path)) + 400


def test_columns_of_metadata_match_the_input(houses: Run, tmp_path: Path) -> None:
    texts = Model(file_of(houses), 1).session.get_modelmeta().custom_metadata_map
    spec = json.loads(texts["spec"])
    with pytest.raises(InputError, match=r"shape \(3,\), and the input \(4,\)"):
        edit_metadata(
            file_of(houses), tmp_path / "model.onnx", spec=spec | {"columns": spec["columns"][1:]}
        )
