"""Large numbers, small deviations and outliers: what the net receives of them, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import r2_score
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from src.kindling.analysis.predictions import predict
from src.kindling.data.preprocess import EncodeTable, raw_device
from src.kindling.data.spec import Column
from src.kindling.data.statistics import mean_and_std
from src.kindling.data.tables.table import Table
from src.kindling.training.trained_run import load_run
from tests.conftest import call, train

ROWS = 300


def hard_table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    normal = generator.standard_normal
    outlier = normal(ROWS)
    outlier[17] = 1e9
    x = normal(ROWS)
    return pd.DataFrame(
        {
            "milliseconds": 1_700_000_000_000 + 1000 * generator.permutation(ROWS),
            "offset": 1e8 + 8 * normal(ROWS),
            "outlier": outlier,
            "clusters": normal(ROWS) + 1e9 * (np.arange(ROWS) % 2),
            "x": x,
            "y": x + 0.1 * normal(ROWS),
        }
    )


def ready(frame: pd.DataFrame, path: Path, target: str = "y", **options: Any) -> Table:
    frame.to_csv(path / "hard.csv", index=False)
    data = Table(str(path / "hard.csv"), target, **options)
    data.setup()
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hard")


def encoded(data: Table) -> Any:
    assert isinstance(data.samples.x, torch.Tensor)
    return data.prepare.preprocess(data.samples.x).numpy()


def test_large_numbers_stay_different(folder: Path) -> None:
    frame = hard_table()
    data = ready(frame, folder)
    z = encoded(data)
    assert z.dtype == np.float32
    assert [len(np.unique(z[:, i])) for i in (0, 1)] == [ROWS, ROWS]  # once 54 and 7
    train_rows = data.indices["train"].numpy()
    features = frame.drop(columns="y").to_numpy()
    scaler = StandardScaler().fit(features[train_rows])
    assert np.allclose(z, scaler.transform(features), atol=1e-6)
    # The loader's batches are these values, too.
    x, _ = next(iter(data.val_dataloader()))
    assert np.allclose(data.prepare(x, x)[0], z[data.indices["val"].numpy()][: len(x)], atol=1e-6)


def test_column_below_float32_resolution_is_not_constant(folder: Path) -> None:
    frame = hard_table().assign(offset=1e8 + np.arange(ROWS) % 3)
    assert len(np.unique(encoded(ready(frame, folder))[:, 1])) == 3


@pytest.mark.parametrize(
    "values",
    [
        1.7e12 + np.arange(300.0),
        1e8 + 8 * np.sin(np.arange(300.0)),
        5e-13 * np.cos(np.arange(300.0)),
        1e-3 + 1e-12 * np.cos(np.arange(300.0)),
        np.append(np.zeros(299), 1e9),
        np.append(np.full(150, np.nan), 1e9 + np.arange(150)),
    ],
    ids=["timestamps", "offset", "tiny", "tiny_offset", "outlier", "missing_first"],
)
def test_moments_match_scikit_learn(values: Any) -> None:
    scaler = StandardScaler().fit(values[:, None])
    mean, std = mean_and_std(torch.tensor(values)[:, None], torch.arange(300), numbers=64)
    assert mean[0] == pytest.approx(scaler.mean_[0], rel=1e-14, abs=1e-20)
    assert std[0] == pytest.approx(np.sqrt(scaler.var_[0]), rel=1e-5)
    assert std[0] == pytest.approx(np.nanstd(values - np.nanmax(values)), rel=1e-12)
    constant = torch.full((500, 1), 0.1, dtype=torch.float64)
    assert mean_and_std(constant, torch.arange(500), numbers=64) == ((0.1,), (1.0,))


def test_quantile_scaling_matches_scikit_learn(folder: Path) -> None:
    frame = hard_table()
    data = ready(frame, folder, scaling="quantile")
    train_rows, features = data.indices["train"].numpy(), frame.drop(columns="y").to_numpy()
    scaler = QuantileTransformer(n_quantiles=100, subsample=None).fit(features[train_rows])
    expected = (scaler.transform(features) - 0.5) * np.sqrt(12)  # it is uniform from 0 to 1
    assert np.allclose(encoded(data), expected, rtol=1e-6, atol=1e-6)


def test_quantiles_of_equal_and_missing_values(folder: Path) -> None:
    data = ready(
        pd.DataFrame(
            {
                "mostly_zero": np.where(np.arange(ROWS) % 4, 0.0, np.arange(ROWS) + 1.0),
                "missing": np.where(np.arange(ROWS) % 2, np.arange(ROWS), np.nan),
                "kind": ["a", "b", "c"] * (ROWS // 3),
                "y": np.sin(np.arange(ROWS)),
            }
        ),
        folder,
        scaling="quantile",
    )
    z = encoded(data)
    zero, missing = np.arange(ROWS) % 4 != 0, np.arange(ROWS) % 2 == 0
    assert z[zero, 0] == pytest.approx(z[1, 0])
    assert -1.73 < z[1, 0] < 0
    assert z[~zero, 0].min() > z[1, 0]
    assert (z[missing, 1] == 0).all()
    assert (z[:, 2] == missing).all()
    single = EncodeTable([Column("size", quantiles=(3.0, 3.0)), Column("x", quantiles=(0.0, 1.0))])
    scaled = single(torch.tensor([[9.0, 0.0], [3.0, 0.5]]))
    assert scaled[:, 0].tolist() == pytest.approx([1.7320508, 0.0])


def test_notes_on_lost_values(folder: Path) -> None:
    frame = hard_table()
    notes = ready(frame, folder).notes[1:]
    assert len(notes) == 2
    assert notes[0].startswith(
        "outlier: few values, such as 1e+09 (row 18), dominate the deviation"
    )
    assert notes[0].endswith("; correct them, or set data.scaling=quantile (data=table)")
    assert notes[1].startswith(
        "clusters: 210 different values become 2 in float32; correct them, or"
    )
    assert ready(frame, folder, scaling="quantile").notes[1:] == []
    target = ready(frame[["x", "outlier"]], folder, "outlier").notes[1]
    assert target.startswith("target outlier: few values, such as 1e+09 (row 18), dominate")
    assert target.endswith("; correct them, or predict their logarithm or a difference")
    ordinary = pd.DataFrame(
        {
            "count": np.where(np.arange(1000) % 50, 0, np.arange(1000)),
            "skewed": np.exp(2 * np.random.default_rng(0).standard_normal(1000)),
            "y": frame["x"].sample(1000, replace=True, random_state=0),
        }
    )
    assert ready(ordinary, folder).notes[1:] == []


@pytest.mark.parametrize("scaling", ["quantile", pytest.param("standard", marks=pytest.mark.long)])
def test_served_timestamps_and_values_match_training(
    scaling: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from src.kindling.deploy.serving.limits import Limits
    from src.kindling.deploy.serving.model import Model
    from src.kindling.deploy.serving.rows import RowDecoder

    frame = hard_table()
    frame["y"] = 1e8 + frame["y"]  # float32 would hold a single value
    path = folder / "served.csv"
    frame.to_csv(path, index=False)
    words = ["net=mlp", "trainer.max_epochs=2", "trainer.limit_test_batches=1.0"]
    result = train("table", f"data.path={path}", "data.target=y", f"data.scaling={scaling}", *words)
    assert "target: in float64, since float32 would round it" in capsys.readouterr().out
    run = load_run(result.run.path)
    found = predict(run.task, run.data(), "test")
    target, predicted = found["target"][:, 0], found["prediction"][:, 0]
    assert np.array_equal(target, frame["y"].to_numpy()[found["index"]])
    assert result.metrics["test/r2"] == pytest.approx(r2_score(target, predicted), abs=1e-6)
    assert result.metrics["test/r2"] > -0.5
    rows = frame.drop(columns="y").iloc[found["index"]]
    rows.to_csv(folder / "new.csv", index=False)
    call("predict", str(run.path), str(folder / "new.csv"), "--out", str(folder / "out.csv"))
    assert np.allclose(pd.read_csv(folder / "out.csv")["prediction"], predicted, rtol=0, atol=1e-6)
    call("export", str(run.path))
    model = Model(run.path / "export/model.onnx", threads=1)
    content = json.dumps(rows.to_dict("records")).encode()
    decoded = RowDecoder(model.spec.columns, Limits())("", content, several=True)
    served = model.responses.format(model.predict(decoded.x.astype(model.dtype)))
    served_values = [response["prediction"] for response in served]
    assert np.allclose(served_values, predicted, rtol=0, atol=1e-5)


def test_tables_are_standardized_before_mps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has no float64."""
    mps, table = torch.device("mps"), EncodeTable([Column("size")])
    assert raw_device(table, mps).type == "cpu"
    assert raw_device(table, torch.device("cuda")).type == "cuda"
    assert raw_device(torch.nn.Identity(), mps).type == "mps"
    data = ready(hard_table(), folder)
    monkeypatch.setattr("src.kindling.data.preprocess.raw_device", lambda *_: torch.device("cpu"))
    batch = next(iter(data.val_dataloader()))
    x, y = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert (x.device.type, x.dtype, y.device.type) == ("cpu", torch.float64, "meta")
    assert data.prepare(x, y)[0].device.type == "meta"
