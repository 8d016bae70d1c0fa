"""Predict: results match the run's own for any input files, and unusable inputs are named."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.kindling.config.errors import InputError
from src.kindling.data.images.decode import EXTENSIONS, UNSUPPORTED
from src.kindling.data.tables import read as read_table
from src.kindling.data.tables.encode import encode_frame
from src.kindling.deploy.predict import predict
from src.kindling.deploy.prediction_writers import PredictionWriter
from src.kindling.runs.run import Run
from src.kindling.training.trained_run import load_run
from src.nets.mlp import MLP
from tests.conftest import call, mistakes, train
from tests.kindling.deploy.conftest import write_rows

RESIZE = "[{_target_: torchvision.transforms.v2.Resize, size: [12, 12]}]"


@pytest.fixture
def cards(run_of: Callable[[str], Run]) -> Run:
    """A run on 120 color images of ten classes."""
    return run_of("color images")


@pytest.fixture
def houses(run_of: Callable[[str], Run], tmp_path: Path) -> Run:
    """A run on a table with numbers, some missing, booleans and categories."""
    (tmp_path / "houses.csv").write_text(write_rows(200))
    return run_of("table")


def predicted(*words: object) -> PredictionWriter:
    found = call("predict", "latest", *map(str, words))
    assert isinstance(found, PredictionWriter)
    return found


def frame_of(found: PredictionWriter) -> pd.DataFrame:
    return pd.read_csv(
        found.out, dtype={"prediction": str} if "probability" in found.first else None
    )


def of_task(run: Run, x: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        columns = run.predict(x)
        return columns.get("probability", columns["prediction"]).numpy()


# ---------------------------------------------------------------------------------------------------------------
# Masks


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_masks_have_their_images_size(fit: str, small_data: Path, tmp_path: Path) -> None:
    run = train(
        "mask_folder", "data.root=~/scans", "net.channels=[8,16]", f"data.resize_mode={fit}"
    ).run
    data = run.data()
    index = data.indices["test"]
    paths = [data.samples.x.paths.path(i) for i in index.tolist()]  # type: ignore[attr-defined]
    twin = tmp_path / Path(paths[0]).name  # of the same name, in another folder
    shutil.copy(paths[0], twin)
    (tmp_path / "text.png").write_text("no picture")
    out, page = tmp_path / "answers.csv", tmp_path / "page.html"
    found = predict(run, [*paths, str(twin), str(tmp_path / "text.png")], out, page)
    frame = pd.read_csv(out)
    assert list(frame) == [
        "path",
        "prediction",
        "share_ground",
        "share_disc",
        "share_square",
        "error",
    ]
    assert frame["prediction"].tolist()[:2] == [
        f"answers_masks/{Path(path).stem}.png" for path in paths[:2]
    ]
    assert frame["prediction"].tolist()[-2] == f"answers_masks/{twin.stem}_2.png"
    assert frame["prediction"].isna().tolist()[-1]
    assert (found.rows, found.unreadable) == (len(paths) + 2, 1)
    with torch.inference_mode():
        expected = run.predict(data.datasets["test"][(0, 0, index)][0])["prediction"].numpy()
    for i, path in enumerate(paths):
        with Image.open(tmp_path / frame["prediction"][i]) as picture, Image.open(path) as original:
            assert (picture.mode, picture.size) == ("P", original.size)
            mask = np.array(picture)
        if fit == "squash":
            again = np.array(Image.fromarray(mask).resize((24, 24), Image.Resampling.NEAREST))
            assert (again == expected[i]).mean() > 0.95
        else:
            assert (mask[:, :3] == 255).all()
            assert np.array_equal(mask[:, 3:27], expected[i])
        shares = frame.loc[i, ["share_ground", "share_disc", "share_square"]].tolist()
        assert shares == pytest.approx(
            (np.bincount(expected[i].ravel(), minlength=3) / 576).tolist()
        )
    assert sorted(path.name for path in tmp_path.glob("answers_masks/*")) == sorted(
        [Path(path).name.replace(".jpg", ".png") for path in paths] + [f"{twin.stem}_2.png"]
    )
    assert page.read_text().count("<img") == len(paths) + 1
    assert not list(tmp_path.glob(".predict*"))
    with pytest.raises(InputError) as caught:
        predict(run, paths, tmp_path / "top.csv", top=2)
    assert caught.value.lines == [
        "--top 2: is for one class out of several, and this run predicts masks"
    ]


# ---------------------------------------------------------------------------------------------------------------
# Pictures


def test_images_match_the_test_split(cards: Run, tmp_path: Path) -> None:
    data = cards.data()
    index = data.indices["test"]
    paths = [data.samples.x.paths.path(i) for i in index.tolist()]
    expected = of_task(cards, data.datasets["test"][(0, 0, index)][0])
    found = predicted(*paths)
    assert (found.rows, found.unreadable, found.out) == (
        len(paths),
        0,
        cards.path / "predictions.csv",
    )
    frame = frame_of(found)
    names = [f"probability_{name}" for name in cards.spec.classes]
    assert list(frame) == ["path", "prediction", "probability", *names, "error"]
    assert list(frame["path"]) == paths
    assert frame[names].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert list(frame["prediction"]) == [cards.spec.classes[i] for i in expected.argmax(1)]
    assert frame["probability"].to_numpy() == pytest.approx(expected.max(1), abs=1e-6)
    assert not list(cards.path.glob(".predict*"))


def test_output_formats_are_equal(cards: Run, small_data: Path, tmp_path: Path) -> None:
    csv, lines, parquet = (
        predicted(small_data / "cards", "--out", tmp_path / f"o.{end}", "--batch-size", 7).out
        for end in ("csv", "jsonl", "parquet")
    )
    frame = pd.read_csv(csv)
    assert len(frame) == 120
    for other in (
        pd.DataFrame([json.loads(line) for line in lines.read_text().splitlines()]),
        pd.read_parquet(parquet),
    ):
        assert list(other) == list(frame)
        assert list(other["prediction"]) == list(frame["prediction"])
        assert other["error"].isna().all()
        assert other["probability"].to_numpy() == pytest.approx(
            frame["probability"].to_numpy(), rel=1e-6
        )


def test_top_classes(cards: Run, small_data: Path) -> None:
    whole = frame_of(predicted(small_data / "cards"))
    found = frame_of(predicted(small_data / "cards", "--top", "3"))
    assert list(found) == [
        "path",
        "prediction",
        "probability",
        "prediction_top2",
        "probability_top2",
        "prediction_top3",
        "probability_top3",
        "error",
    ]
    ranked = np.sort(whole.filter(like="probability_").to_numpy(), axis=1)[:, ::-1]
    for place, name in enumerate(["probability", "probability_top2", "probability_top3"]):
        assert found[name].to_numpy() == pytest.approx(ranked[:, place], abs=1e-6)
    assert (found["prediction"] != found["prediction_top2"]).all()


def test_eval_transforms_without_the_training_data(small_data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(small_data / "cards", tmp_path / "cards")
    words = [
        f"data.root={root}",
        f"data.train_transforms={RESIZE}",
        f"data.eval_transforms={RESIZE}",
    ]
    run = train("image_folder", *words).run
    data = run.data()
    index = data.indices["test"]
    paths = [Path(data.samples.x.paths.path(i)) for i in index.tolist()]
    expected = of_task(run, data.datasets["test"][(0, 0, index)][0])
    kept = [shutil.copy(path, tmp_path / f"{i}.png") for i, path in enumerate(paths)]
    shutil.rmtree(root)
    frame = frame_of(predicted(*kept))
    assert frame.filter(like="probability_").to_numpy() == pytest.approx(expected, abs=1e-6)


def test_unreadable_files_are_listed(
    cards: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "deep"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (30, 20), (40 * i, 9, 9)).save(folder / f"good {i}.jpg")
    whole = (folder / "good 0.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.webp").touch()
    (folder / "notes.txt").write_text("not looked at")
    (folder / ".hidden.png").write_text("nor this")
    with pytest.raises(SystemExit) as ended:
        predicted(tmp_path / "new")
    assert ended.value.code == 3
    frame = pd.read_csv(cards.path / "predictions.csv")
    errors = {
        os.path.basename(path): error
        for path, error in zip(frame["path"], frame["error"], strict=True)
    }
    assert list(errors) == [
        "broken.jpg",
        "empty.webp",
        "good 0.jpg",
        "good 1.jpg",
        "good 2.jpg",
        "text.png",
    ]
    assert errors["broken.jpg"].startswith("cannot be read as an image: ")
    assert errors["empty.webp"] == "the file is empty"
    assert errors["text.png"] == "cannot be read as an image: cannot identify image file"
    bad = frame["error"].notna()
    assert list(bad) == [True, True, False, False, False, True]
    assert frame["prediction"].isna().equals(bad)
    assert frame["probability"].isna().equals(bad)
    assert "unreadable 3; see the column 'error'" in capsys.readouterr().out


def test_no_readable_file(cards: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    out = tmp_path / "o.parquet"
    found = predict(load_run("latest"), [str(tmp_path / "a.png")], out)
    assert (found.rows, found.unreadable) == (1, 1)
    assert pd.read_parquet(out)["prediction"].isna().all()


def test_image_of_another_shape(small_data: Path, tmp_path: Path) -> None:
    words = [
        f"data.{stage}_transforms=[{{_target_: torchvision.transforms.v2.Resize, size: 12}}]"
        for stage in ("train", "test")
    ]
    train("image_folder", "data.root=~/cards", *words)
    Image.new("L", (40, 20)).save(tmp_path / "wide.png")
    found = predict(load_run("latest"), [str(tmp_path / "wide.png")])
    assert list(found.first["error"]) == ["comes to (1, 12, 24), and the net takes (1, 12, 12)"]


@pytest.mark.parametrize(
    "words", [(), (f"data.train_transforms={RESIZE}", f"data.eval_transforms={RESIZE}")]
)
def test_pixels_get_the_training_range(
    words: tuple[str, ...], run_of: Callable[[str], Run], tmp_path: Path
) -> None:
    run = train("digits", *words).run if words else run_of("digits")
    data = run.data()
    index = data.indices["test"][:20]
    x = data.samples.x[index]
    for i, image in enumerate(x[:, 0].numpy()):
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(
            tmp_path / f"{i:02}.png"
        )
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).convert("RGB").save(
            tmp_path / f"{i:02}_rgb.png"
        )
    frame = frame_of(predicted(tmp_path / "??.png", tmp_path / "*_rgb.png"))
    expected = of_task(run, data.datasets["test"][(0, 0, index)][0])
    found = frame.filter(like="probability_").to_numpy()
    assert found == pytest.approx(np.concatenate([expected, expected]), abs=1e-6)


def test_image_from_standard_input(
    cards: Run, monkeypatch: pytest.MonkeyPatch, small_data: Path
) -> None:
    path = next((small_data / "cards").rglob("*.png"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(path.read_bytes())))
    piped = frame_of(predicted("-"))
    named = frame_of(predicted(path))
    assert list(piped["path"]) == ["-"]
    assert piped.drop(columns="path").equals(named.drop(columns="path"))


def test_workers_give_equal_predictions(
    cards: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = frame_of(predicted(small_data / "cards", "--batch-size", "8", "data.num_workers=0"))
    monkeypatch.setattr("src.kindling.config.cores.usable_cores", lambda: 2)
    assert frame_of(
        predicted(small_data / "cards", "--batch-size", "8", "data.num_workers=2")
    ).equals(one)


def test_gallery_is_one_page_and_escapes_names(
    cards: Run, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(next((small_data / "cards").rglob("*.png")), tmp_path / "<b onload=x>.png")
    (tmp_path / "text.png").write_text("no picture")
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit):
        predicted(tmp_path, small_data / "cards", "--gallery", page)
    text = page.read_text()
    assert text.count("<figure>") == 122
    assert text.count('<img src="data:image/png;base64,') == 121
    assert "&lt;b onload=x&gt;.png" in text
    assert "<b onload" not in text
    assert "http" not in text
    assert (
        "<figure><figcaption>cannot be read as an image: cannot identify image file</figcaption>"
        in text
    )
    assert f"gallery    {page}" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------
# Tables


NEW = "color,extra,new,rooms,size\n" + "".join(
    f"{['red', 'blue', 'pink', ''][i % 4]},x,{bool(i % 3)},{'' if i % 6 == 0 else i % 9},{i % 23}\n"
    for i in range(100)
)


def test_rows_match_the_task(
    houses: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.csv").write_text(NEW)
    expected = of_task(
        houses, torch.from_numpy(encode_frame(pd.read_csv(io.StringIO(NEW)), houses.spec.columns))
    )
    frame = frame_of(predicted(tmp_path / "new.csv", "--batch-size", "9"))
    assert list(frame) == ["row", "prediction"]
    assert list(frame["row"]) == list(range(1, 101))
    assert frame["prediction"].to_numpy() == pytest.approx(expected[:, 0], rel=1e-5)
    output = capsys.readouterr().out
    assert "note       columns that are not in the training data, ignored: extra\n" in output
    assert (
        "note       color: 25 rows with values that training did not have, such as 'pink'\n"
        in output
    )
    predicted(tmp_path / "houses.csv")  # with its target and a column that the training left out
    assert "note " not in capsys.readouterr().out


def test_predict_repeats_random_net(
    houses: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = MLP.forward

    def drawn(self: MLP, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(forward(self, x), 0.5)

    monkeypatch.setattr(MLP, "forward", drawn)
    torch.manual_seed(1)
    first = frame_of(predicted(tmp_path / "houses.csv"))
    torch.manual_seed(2)
    pd.testing.assert_frame_equal(frame_of(predicted(tmp_path / "houses.csv")), first)


def test_table_inputs(houses: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "a.csv").write_text(NEW)
    expected = frame_of(predicted(folder / "a.csv"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(NEW.encode())))
    assert frame_of(predicted("-")).equals(expected)
    pd.read_csv(folder / "a.csv").to_parquet(folder / "b.parquet")
    assert frame_of(predicted(folder / "b.parquet")).equals(expected)
    (tmp_path / "other.csv").write_text(NEW.replace(",", ";"))
    assert frame_of(predicted(tmp_path / "other.csv", "data.separator=;")).equals(expected)
    both = frame_of(predicted(folder))
    assert list(both) == ["path", "row", "prediction"]
    assert list(both["path"].unique()) == [str(folder / "a.csv"), str(folder / "b.parquet")]
    assert list(both["prediction"]) == [*expected["prediction"]] * 2


def test_table_classes(run_of: Callable[[str], Run], tmp_path: Path) -> None:
    run = run_of("breast_cancer")
    data = run.data()
    x = data.samples.x[data.indices["test"]]
    pd.DataFrame(x.numpy(), columns=[column.name for column in run.spec.columns]).to_csv(
        tmp_path / "a.csv", index=False
    )
    frame = frame_of(predicted(tmp_path / "a.csv"))
    assert list(frame) == [
        "row",
        "prediction",
        "probability",
        "probability_malignant",
        "probability_benign",
    ]
    assert frame.filter(like="probability_").to_numpy() == pytest.approx(of_task(run, x), abs=1e-5)


def test_memory_does_not_grow_with_rows(
    houses: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = NEW.splitlines()
    for name, times in {"small": 100, "large": 500}.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *(lines[1:] * times)]) + "\n")
    monkeypatch.setattr(read_table, "CELLS", 20_000)
    run, peaks = load_run("latest"), {}
    predict(run, [str(tmp_path / "small.csv")])
    for name in ("small", "large"):
        tracemalloc.start()
        found = predict(run, [str(tmp_path / f"{name}.csv")])
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        frame = frame_of(found)
        assert list(frame["row"]) == list(range(1, found.rows + 1))
        assert frame["prediction"].to_numpy()[-100:] == pytest.approx(
            frame["prediction"].to_numpy()[:100], rel=1e-5
        )
    assert found.rows == 50_000
    assert peaks["large"] < 1.2 * peaks["small"], peaks


def test_unfit_table_leaves_no_file(
    houses: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "new.csv", tmp_path / "o.csv"
    path.write_text(NEW.replace("rooms", "room"))
    assert mistakes("predict", "latest", str(path), "--out", str(out)) == [
        f"{path}: the table lacks 1 of the 4 columns of the training data: rooms; did you mean 'room'?"
    ]
    path.write_text(NEW.splitlines()[0] + "\n")
    assert mistakes("predict", "latest", str(path), "--out", str(out)) == [
        f"{path}: a header and no rows; add rows below it"
    ]
    monkeypatch.setattr(read_table, "CELLS", 1)
    out.write_text("old")
    lines = NEW.splitlines()
    path.write_text("\n".join([lines[0], *(lines[1:] * 30), "red,x,True,many,3"]) + "\n")
    assert mistakes("predict", "latest", str(path), "--out", str(out)) == [
        f"{path}: column 'rooms': 'many' (row 3001) is not a number; the training data has numbers there"
    ]
    assert out.read_text() == "old"
    assert not list(tmp_path.glob(".predict*"))
    path.write_text("")
    assert mistakes("predict", "latest", str(path)) == [
        f"{path}: the file is empty; add a line of column names, and rows"
    ]


def test_standard_input_and_one_unseen_row_are_named(
    houses: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = NEW.splitlines()[0]
    bad = f"{NEW}red,x,True,many,3\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(bad.encode())))
    (line,) = mistakes("predict", "latest", "-")
    assert line.startswith("stdin: column 'rooms': 'many' (row ")
    (tmp_path / "pink.csv").write_text(f"{head}\npink,x,True,1,3\n")
    predicted(tmp_path / "pink.csv")
    assert (
        "note       color: 1 row with values that training did not have, such as 'pink'\n"
        in capsys.readouterr().out
    )


def test_error_of_an_image_names_no_other_path(
    cards: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").write_text("no image")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit):
        predicted("../new")
    frame = pd.read_csv(cards.path / "predictions.csv")
    assert frame[["path", "error"]].to_numpy().tolist() == [
        ["../new/a.png", "cannot be read as an image: cannot identify image file"]
    ]


# ---------------------------------------------------------------------------------------------------------------
# Mistakes


def test_missing_inputs(cards: Run, tmp_path: Path) -> None:
    (tmp_path / "card.png").touch()
    (tmp_path / "table.csv").touch()
    (tmp_path / "empty").mkdir()
    kinds = ", ".join(sorted(EXTENSIONS | UNSUPPORTED.keys()))
    words = ["crd.png", "empty", "*.jpg", "table.csv", "nowhere/a.png"]
    assert mistakes("predict", "latest", *(str(tmp_path / word) for word in words)) == [
        f"{tmp_path}/crd.png: no such file or folder; did you mean 'card.png'?",
        f"{tmp_path}/empty: no images in this folder ({kinds})",
        f"{tmp_path}/*.jpg: no such file or folder",
        f"{tmp_path}/table.csv: this run predicts from images, not from tables",
        f"{tmp_path}/nowhere/a.png: no such file or folder",
    ]
    assert mistakes("predict", "nowhere", "a.png")[0].startswith("nowhere: no such run")
    assert mistakes("predict", "latest", "data.size=8") == [
        "no INPUT: name files, folders or globs, or - for standard input"
    ]
    assert mistakes("predict", "latest", "a.png", "data.siz=8") == [
        "data.siz: ImageFolder has no argument 'siz'; did you mean 'size'? (command line)"
    ]
    assert not (cards.path / "predictions.csv").exists()


def test_invalid_flags(houses: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "houses.csv")
    flags = ["--out", "o.xlsx", "--gallery", "g.html", "--batch-size", "0", "--top", "2"]
    assert mistakes("predict", "latest", path, *flags) == [
        "--out o.xlsx: expected a name that ends in .csv, .jsonl or .parquet",
        "--gallery g.html: shows images, and this run predicts from tables",
        "--batch-size: expected at least 1, got 0",
        "--top 2: is for one class out of several, and this run predicts values",
    ]
    before = Path(path).read_text()
    assert mistakes("predict", "latest", path, "--out", path) == [
        f"--out {path}: is one of the inputs; name another file"
    ]
    assert Path(path).read_text() == before
    assert mistakes("predict", "latest", path, "--out", f"{tmp_path}/nowhere/o.csv") == [
        f"{tmp_path}/nowhere/o.csv: cannot be written: No such file or directory"
    ]


def test_unreadable_file_exit_status(
    forked_command: Callable[..., subprocess.CompletedProcess[str]],
    cards: Run,
    tmp_path: Path,
    repository: Path,
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    done = forked_command(
        "-m", "src.predict", str(cards.path), str(tmp_path / "text.png"), cwd=repository
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines()[-1] == "unreadable 1; see the column 'error'"
