"""Labels, and lists of image files: targets, groups, times, and every error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from torch import Tensor

from src.kindling.analysis.predictions import predict
from src.kindling.config.errors import InputError
from src.kindling.data.images.image_folder import ImageFolder
from src.kindling.data.samples import STAGES
from src.kindling.training.trained_run import load_run
from tests.conftest import call, train
from tests.kindling.data.test_image_folder import cards as cards
from tests.kindling.data.test_image_folder import lines, ready, write
from tests.kindling.data.test_image_folder import statistics as statistics


class Darkness(LightningModule):
    """Predicts each image's mean."""

    def predict_step(self, batch: Any, _: int) -> dict[str, Tensor]:
        return {"prediction": batch[0].flatten(1).mean(1)}


def listed(folder: Path, header: str, rows: Sequence[str], name: str = "list.csv") -> str:
    """A list of files."""
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return str(folder / name)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """40 pictures in one folder, without labels, whose names hold patient and date."""
    for i in range(40):
        write(tmp_path / "photos" / f"p{i // 4}_2024-01-{i % 28 + 1:02}_{i}.png", 3 * i)
    return tmp_path / "photos"


def names(photos: Path) -> list[str]:
    return sorted(
        (file.name for file in photos.glob("*.png")), key=lambda name: int(name[:-4].split("_")[2])
    )


def test_labels_that_differ_in_case_or_space(cards: Path, tmp_path: Path) -> None:
    for i in range(20):
        write(cards / "Bright" / f"{i}.png", 200)
    assert (
        "labels differ only in case or white space: 'Bright' and 'bright'; "
        "data.merge_labels=true makes them one"
    ) in ready(cards).notes
    assert ready(cards, merge_labels=True).spec.classes == ("Bright", "dark ü")
    spellings = ["red", "Red ", "red"]
    rows = [f'dark ü/{i}.png,"{spellings[i % 3]};big"' for i in range(20)]
    files = listed(tmp_path, "path,label", rows + [f"bright/{i}.jpg,small" for i in range(20)])
    data = ready(cards, files=files, labels=";")
    assert data.spec.classes == ("Red", "big", "red", "small")
    assert any("'Red' and 'red'" in note for note in data.notes)
    data = ready(cards, files=files, labels=";", merge_labels=True)
    assert data.spec.classes == ("big", "red", "small")
    assert not any("differ only" in note for note in data.notes)


def test_same_file_under_two_labels(cards: Path) -> None:
    (cards / "dark ü" / "7.png").write_bytes((cards / "bright" / "3.jpg").read_bytes())
    (note,) = [note for note in ready(cards).notes if note.startswith("targets: ")]
    found = "1 samples are identical to others with another target: "
    pair = {"dark ü/7.png (dark ü)", "bright/3.jpg (bright)"}
    assert set(note.removeprefix(f"targets: {found}").partition("; ")[0].split(" = ")) == pair
    remedy = "correct or remove them, or give a file several labels (data.labels)"
    assert note.endswith(f"; {remedy}")
    (line,) = lines(cards, duplicates="error")
    assert line.startswith(f"data: {found}")
    assert not any(note.startswith("targets") for note in ready(cards, duplicates="ignore").notes)


def test_labels_that_look_like_numbers(tmp_path: Path) -> None:
    for i in range(40):
        write(tmp_path / "x" / f"{i % 4 + 7:03}" / f"{i}.png", 50 * (i % 4))
    remedy = "classification; data.kind=regression predicts numbers"
    data = ready(tmp_path / "x")
    assert data.spec.classes == ("007", "008", "009", "010")
    assert data.notes[0] == f"target: label, 4 different texts that look like numbers: {remedy}"
    data = ready(tmp_path / "x", kind="regression")
    assert (data.spec.target_type, data.spec.names) == ("values", ("label",))
    assert data.samples.y[:, 0].unique().tolist() == [7, 8, 9, 10]
    rows = [f"{i % 4 + 7:03}/{i}.png,{i % 4:03}" for i in range(40)]
    files = listed(tmp_path, "path,label", rows)
    data = ready(tmp_path / "x", files=files)
    assert data.spec.classes == ("000", "001", "002", "003")
    assert data.notes[0].endswith(f"look like numbers: {remedy}")


def test_list_without_folder_gives_labels(photos: Path) -> None:
    rows = [f"{name},{'dark' if i < 20 else 'bright'}" for i, name in enumerate(names(photos))]
    data = ready(None, files=listed(photos, "path,label", rows))
    assert data.root == photos
    assert data.spec.classes == ("bright", "dark")
    with pytest.raises(InputError) as caught:
        ImageFolder()
    assert caught.value.lines == [
        "data.root: is not set; add data.root=FOLDER, or data.files=LIST.csv"
    ]


def test_groups_and_times_of_lists(photos: Path) -> None:
    rows = [
        f"{name},{i % 2},{i // 4:02},{i % 28 + 1}.1.2024" for i, name in enumerate(names(photos))
    ]
    files = listed(photos, "path,label,patient,day", rows)
    data = ready(None, files=files, group_column="patient")
    assert "split: by patient, 10 groups, none in two splits" in data.notes
    found = [{int(i) // 4 for i in data.indices[stage]} for stage in STAGES]
    assert not found[0] & found[1]
    assert not found[0] & found[2]
    assert not found[1] & found[2]
    predictions = predict(Darkness(), data, "test")
    assert predictions["group"].tolist() == (predictions["index"] // 4).tolist()
    data = ready(None, files=files, time="day")
    assert "group" not in predict(Darkness(), data, "test").columns
    assert "split: by day, from 2024-01-01 to 2024-01-28; the oldest rows train" in data.notes
    ages = [data.samples.time[data.indices[stage]] for stage in STAGES]
    assert ages[0].max() <= ages[1].min()
    assert ages[1].max() <= ages[2].min()
    assert lines(None, files=files, group_column="patiend") == [
        f"data.group_column: {files} has no column 'patiend'; did you mean 'patient'?"
    ]


def test_groups_and_times_of_folders(photos: Path) -> None:
    for i, name in enumerate(names(photos)):
        folder = photos / ("a" if i % 2 else "b")
        folder.mkdir(exist_ok=True)
        (photos / name).rename(folder / name)
    data = ready(photos, group_column=r"(p\d+)_")
    assert r"split: by (p\d+)_, 10 groups, none in two splits" in data.notes
    predictions = predict(Darkness(), data, "train")
    found = [data.samples.name(int(i))[2:5] for i in predictions["index"]]
    pairs = set(zip(predictions["group"].tolist(), found, strict=True))
    assert len(pairs) == len(set(found)) == len(set(predictions["group"].tolist())) > 1
    patients = [
        {data.samples.name(int(i)).split("/")[1].split("_")[0] for i in data.indices[stage]}
        for stage in STAGES
    ]
    assert not patients[0] & patients[1]
    assert not (patients[0] | patients[1]) & patients[2]
    data = ready(photos, time=r"\d{4}-\d\d-\d\d")
    ages = [data.samples.time[data.indices[stage]] for stage in STAGES]
    assert ages[0].max() <= ages[1].min()
    assert ages[1].max() <= ages[2].min()
    remedy = r"give a regular expression such as '(patient\d+)', or a column of data.files"
    (line,) = lines(photos, group_column="patient_id")
    assert line.startswith("data.group_column: 'patient_id' is not found in 40 of 40 paths (a/p0_")
    assert line.endswith(f"; {remedy}")
    (line,) = lines(photos, time="(")
    assert line.startswith("data.time: '(': ")
    assert line.endswith(f"; {remedy}")


def test_official_splits_that_divide_a_group(photos: Path) -> None:
    splits = ["train", "val", "test"]
    rows = [f"{name},{i % 2},{i // 4},{splits[i % 3]}" for i, name in enumerate(names(photos))]
    files = listed(photos, "path,label,patient,split", rows)
    (line,) = lines(None, files=files, group_column="patient")
    assert line == (
        "data.group_column: p0_2024-01-01_0.png (train) and p0_2024-01-02_1.png (val) are of one "
        "group; correct the given splits, or remove it"
    )
    assert lines(None, files=files, time="patient") == [
        "data.time: all splits are given, and none is left to time; remove it"
    ]


def test_regression_from_list(photos: Path) -> None:
    rows = [f"{name},{i / 4},{40 - i},{i % 3}" for i, name in enumerate(names(photos))]
    files = listed(photos, "file name,age,height (cm),grade", rows)
    data = ready(None, files=files, target="age")
    assert (data.spec.target_type, data.spec.names) == ("values", ("age",))
    assert data.samples.y[:, 0].tolist() == [i / 4 for i in range(40)]
    assert data.notes[:2] == [
        "images: column 'file name' has their paths; rename it 'path' to confirm",
        "target: age, 40 different numbers: regression (to change it, set data.kind)",
    ]
    data = ready(None, files=files, target=["age", "height (cm)"])
    assert (data.spec.target, data.spec.targets) == (
        "age, height (cm)",
        ("age", "height (cm)"),
    )
    assert data.samples.y[3].tolist() == [0.75, 37]
    data = ready(None, files=files, target="grade")
    assert data.spec.classes == ("0", "1", "2")
    assert ready(None, files=files, target="grade", kind="regression").spec.classes == ()
    assert lines(None, files=files) == [
        f"data.target: {files} has no column 'label' (it has: file name, age, height (cm), grade); "
        "name one"
    ]
    assert lines(None, files=files, target=[]) == [
        "data.target: expected different columns, got []"
    ]


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        (
            ["{0},1.5", "{1},2"],
            ["the first line, '{0}', …, has no column names; add this line above it: path,age"],
        ),
        (
            ["path age", "{0} 1.5"],
            [
                "one column, 'path age', that seems to be separated by spaces; add "
                "data.separator=space"
            ],
        ),
        (
            ["{0} 1.5 x", "{1} 2 y"],
            [
                "one column, '{0} 1.5 x', that seems to be separated by spaces; add "
                "data.separator=space"
            ],
        ),
    ],
)
def test_lists_without_header_or_commas(photos: Path, rows: list[str], problems: list[str]) -> None:
    first = names(photos)
    files = listed(photos, rows[0].format(*first), [row.format(*first) for row in rows[1:]])
    found = lines(None, files=files, target="age")
    assert found == [f"{files}: {problem.format(*first)}" for problem in problems]


def test_list_with_spaces_is_read(photos: Path) -> None:
    rows = [f"{name} {i}" for i, name in enumerate(names(photos))]
    files = listed(photos, "path age", rows, "list.txt")
    data = ready(None, files=files, target="age", separator="space", kind="regression")
    assert data.samples.y[:, 0].tolist() == list(range(40))
    for options, name in (({"separator": "space"}, "list.txt"), ({}, "list.tsv")):
        separator = "\t" if name.endswith("tsv") else " "
        files = listed(photos, f"{names(photos)[0]}{separator}1", rows, name)
        (line,) = lines(None, files=files, target="age", **options)
        assert line.endswith(f"add this line above it: path{separator}age")


def test_all_wrong_rows_of_a_list(photos: Path) -> None:
    rows = ["no.png,a,train", f"{names(photos)[0]},b,tset", ",c,val", "x.heic,d,test"]
    files = listed(photos, "path,label,split", rows)
    found = lines(None, files=files)
    assert [line.removeprefix(f"{files}:").partition(": ")[0] for line in found] == list("2345")
    assert found[1].endswith(": split 'tset'; did you mean 'test'? (train, val or test)")
    rows = [
        f"{name},a,{['train', 'val', 'test', ''][i % 4]}" for i, name in enumerate(names(photos))
    ]
    found = lines(None, files=listed(photos, "path,label,split", rows))
    assert found[0] == f"{files}:5: split is empty (train, val or test)"
    assert found[-1] == "and 5 more lines like these"


def test_class_called_none(photos: Path) -> None:
    rows = [f"{name},{['None', 'NA'][i % 2]}" for i, name in enumerate(names(photos))]
    assert ready(None, files=listed(photos, "path,label", rows)).spec.classes == ("NA", "None")


def test_regression_from_list_in_every_command(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{name},{i / 4},{100 - i}" for i, name in enumerate(names(photos))]
    files = listed(tmp_path, "path,age,height (cm)", rows)
    words = [f"data.root={photos}", f"data.files={files}", 'data.target=[age,"height (cm)"]']
    train("image_folder", *words, "net.channels=[8]", plots=False)
    run = load_run("latest")
    assert run.metrics["test/mae_age"] > 0
    assert call("evaluate", "latest") == run.metrics
    call("report", "latest")
    assert "height (cm)" in (run.path / "report.html").read_text()
    predictions = tmp_path / "new.csv"
    call("predict", "latest", str(photos), "--out", str(predictions))
    header, first, *others = predictions.read_text().splitlines()
    assert header == "path,prediction_age,prediction_height (cm),error"
    assert len(others) == 39
    assert 0 < float(first.split(",")[2]) < 200
    call("export", "latest")
    assert "verified" in capsys.readouterr().out
    assert (run.path / "export" / "model.onnx").exists()


def test_split_in_another_case(cards: Path, tmp_path: Path) -> None:
    splits = ["train", "train", "train", "test"]
    rows = [f"dark ü/{i}.png,dark,{splits[i % 4]}" for i in range(20)]
    rows += [f"bright/{i}.jpg,bright,{splits[i % 4]}" for i in range(20)]
    data = ready(cards, files=listed(tmp_path, "path,label,Split", rows), duplicates="ignore")
    assert data.indices["test"].tolist() == list(range(3, 40, 4))
