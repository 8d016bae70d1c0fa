"""Shards: which rows each batch holds, in which order, in how much memory, and what cannot be read."""

from __future__ import annotations

import copy
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.kindling.config.errors import InputError
from src.kindling.data.images import image_data
from src.kindling.data.shards.describe import open_shards
from src.kindling.data.shards.files import KEY, Rows, join_rows
from src.kindling.data.shards.loader import ShardBatches, ShardLoader, make_shard_loader
from src.kindling.data.shards.order import ShardOrder, Window
from tests.make_shards import write_digits, write_parquet, write_tar

IDS = {"parquet": "id", "tar": "json.id"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(image_data, "DATA", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 digits in six shards of each format."""
    folder = tmp_path_factory.mktemp("shards")
    for form in IDS:
        write_digits(folder / form, form)
    return folder


def read_ids(rows: Rows) -> torch.Tensor:
    """A batch of the rows' numbers, and a draw."""
    (name,) = rows.keys() - {KEY}
    draws = torch.rand(1).item(), np.random.rand(), random.random()
    return torch.tensor([*rows[name], *draws], dtype=torch.float64)


def load(folder: Path, workers: int = 0, batch_size: int = 16, **options: Any) -> ShardLoader:
    options = {"buffer_size": 200, "seed": 0, **options}
    column = IDS[folder.name]
    return make_shard_loader(
        open_shards(folder), [column], read_ids, batch_size, workers=workers, **options
    )


def rows_of(order: ShardOrder, epoch: int) -> list[list[tuple[int, int]]]:
    """The block and the number within it of each row of each batch."""
    batches = []
    for batch in range(order.length):
        window, place = order.locate(batch)
        pieces = order.pieces(epoch, window)
        inside = [(p.block, row) for p in pieces for row in range(p.start, p.stop)]
        rows = [inside[i] for i in order.permute(epoch, window)[place]]
        batches.append(rows)
    return batches


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(
    ("blocks", "batch_size", "buffer_size"),
    [
        ([32] * 20, 16, 128),
        ([7, 100, 1, 33, 250, 9], 8, 64),
        ([1, 2, 3], 4, 1),
        ([1000], 10, 100),
        ([33], 16, 1000),
        (list(range(1, 60)), 13, 300),
    ],
)
def test_order_holds_every_row_once(
    blocks: list[int], batch_size: int, buffer_size: int, world_size: int, seed: int | None
) -> None:
    orders = [
        ShardOrder(blocks, batch_size, buffer_size, seed, rank, world_size)
        for rank in range(world_size)
    ]
    for epoch in (0, 1):
        batches = [rows_of(order, epoch) for order in orders]
        seen = [row for rank in batches for batch in rank for row in batch]
        assert len(seen) == len(set(seen)) == sum(blocks) - orders[0].dropped
        assert orders[0].dropped == (sum(blocks) % world_size if seed is not None else 0)
        for order, rank in zip(orders, batches, strict=True):
            assert [len(batch) for batch in rank] == [order.size(i) for i in range(order.length)]
            assert {len(batch) for batch in rank[:-1]} <= {batch_size}
        if seed is not None:
            assert len({len(rank) for rank in batches}) == 1
            assert all(len(rank[-1]) > 1 or len(rank) == 1 for rank in batches)


def test_order_depends_on_seed_and_epoch() -> None:
    def first(seed: int, epoch: int) -> list[tuple[int, int]]:
        return rows_of(ShardOrder([50] * 40, 32, 640, seed), epoch)[0]

    assert first(0, 0) == first(0, 0)
    assert len({tuple(first(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    alone = ShardOrder([40], 40, 100, 0)  # rows are shuffled anew, even if blocks cannot be
    assert rows_of(alone, 0)[0] != rows_of(alone, 1)[0]
    assert len({block for block, _ in first(0, 5)}) == 1  # the first window of lane 0 is small
    later = rows_of(ShardOrder([50] * 200, 32, 2000, 0), 0)[100]
    assert len({block for block, _ in later}) > 2


def test_order_without_seed_keeps_the_rows_in_sequence() -> None:
    order = ShardOrder([5, 9, 6], 4, 100)
    lanes = [
        [row for batch in rows_of(order, 3)[i :: order.lanes] for row in batch] for i in (0, 1)
    ]
    assert order.lanes == 2
    assert lanes[0] + lanes[1] == [(b, row) for b, n in enumerate([5, 9, 6]) for row in range(n)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("form", IDS)
def test_batches_are_the_same_for_any_number_of_workers(digits: Path, form: str) -> None:
    loaders = {workers: load(digits / form, workers) for workers in (0, 2, 4)}
    for epoch in (0, 1):
        batches = {}
        for workers, loader in loaders.items():
            assert loader.num_workers == workers
            loader.sampler.set_epoch(epoch)
            batches[workers] = list(loader)
        assert len(batches[0]) == len(loaders[0]) == 38
        for workers in (2, 4):
            for one, other in zip(batches[0], batches[workers], strict=True):
                assert torch.equal(one, other)
        ids = torch.cat([batch[:-3] for batch in batches[0]])
        assert sorted(ids.tolist()) == list(range(600))
    draws = torch.stack([batch[-3:] for batch in batches[0]])
    assert len(set(draws.flatten().tolist())) == draws.numel()


def test_workers_are_lowered_to_a_divisor(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(digits / "tar", 3).num_workers == 2
    line = (
        "data: 2 workers instead of 3, so that they divide the 8 lanes in which shards are read\n"
    )
    assert capsys.readouterr().out == line


def test_reading_leaves_the_generators_as_they_are(digits: Path) -> None:
    loader = iter(load(digits / "parquet"))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    next(loader)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_after_each_batch(digits: Path, workers: int) -> None:
    whole, states = [], []
    loader = load(digits / "parquet")
    loader.sampler.set_epoch(1)
    states.append(loader.state_dict())
    for batch in loader:
        whole.append(batch)
        states.append(loader.state_dict())
    assert states[5] == {"epoch": 1, "batch": 5, "order": loader.dataset.order.digest}
    for done in range(len(states)) if workers == 0 else (7, 38):
        resumed = load(digits / "parquet", workers)
        resumed.load_state_dict(copy.deepcopy(states[done]))
        assert resumed.state_dict() == {**states[done], "epoch": resumed.sampler.epoch}
        rest = list(resumed)
        assert len(rest) == len(whole) - done
        assert all(torch.equal(one, other) for one, other in zip(whole[done:], rest, strict=True))
        assert resumed.state_dict() == states[-1] or not done
        resumed.sampler.set_epoch(2)
        assert len(list(resumed)) == len(whole)


def test_resume_refuses_other_shards(digits: Path) -> None:
    state = load(digits / "parquet").state_dict()
    for other in (load(digits / "tar"), load(digits / "parquet", seed=1)):
        with pytest.raises(InputError, match="^data: shards, seed, .* have changed since"):
            other.load_state_dict(state)


def test_data_set_reaches_a_spawned_worker(digits: Path) -> None:
    loader = load(digits / "tar")
    copied = pickle.loads(pickle.dumps(loader.dataset))
    assert torch.equal(copied[0, 7, ""], loader.dataset[0, 7, ""])


class Counting(ShardBatches):
    """Notes the rows that are in the buffer and the ones that are read."""

    most = read = 0

    def _read_window(self, epoch: int, window: Window) -> Rows:
        known = self.buffer.get(window.lane, ())[:2] == (epoch, window)
        rows = super()._read_window(epoch, window)
        self.read += 0 if known else len(rows[KEY])
        self.most = max(self.most, sum(len(part[KEY]) for _, _, part in self.buffer.values()))
        return rows


@pytest.mark.parametrize("form", IDS)
def test_buffer_is_bounded_and_rows_are_read_once(digits: Path, form: str) -> None:
    dataset = load(digits / form, buffer_size=400).dataset
    counting = Counting(dataset.shards, dataset.order, dataset.columns, dataset.decode)
    for batch in range(len(counting)):
        counting[0, batch, ""]
    assert counting.read == 600
    assert 150 < counting.most <= 400
    assert counting.buffer == {}


def test_resuming_reads_one_window_of_each_lane(digits: Path) -> None:
    dataset = load(digits / "parquet").dataset
    counting = Counting(dataset.shards, dataset.order, dataset.columns, dataset.decode)
    for batch in range(20, 28):
        counting[0, batch, ""]
    assert counting.read <= 200 + 8 * 16


@pytest.mark.parametrize("form", IDS)
def test_truncated_shard_is_named(digits: Path, tmp_path: Path, form: str) -> None:
    for path in sorted((digits / form).iterdir()):
        (folder := tmp_path / form).mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    whole = open_shards(folder)
    cut = folder / f"digits-003.{form}"
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    named = re.escape(str(cut))
    with pytest.raises(InputError, match=rf"^{named}.*replace the file$"):
        whole.count_values(IDS[form])
    with pytest.raises(InputError, match=rf"^{named}: cannot be read as .*; replace the file$"):
        open_shards(folder)


def mixed(folder: Path) -> None:
    write_digits(folder, "tar", 20, 1)
    write_digits(folder, "parquet", 20, 1)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (Path.mkdir, "no .parquet or .tar file; set data.folder"),
    "missing": (lambda folder: None, "no such folder (data.folder)"),
    "mixed": (mixed, "digits-000.parquet and digits-000.tar are of two formats; put them"),
    "packed": (
        lambda folder: (folder.mkdir(), (folder / "a.tar.gz").touch()),
        "no .parquet or .tar file; unpack a.tar.gz and others to .tar",
    ),
    "no row": (
        lambda folder: write_parquet(folder / "a.parquet", {"x": []}),
        "the shards have no rows; set data.folder to others",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folder_is_refused(case: str, tmp_path: Path) -> None:
    write, message = REFUSED[case]
    write(tmp_path / "shards")
    with pytest.raises(InputError) as caught:
        open_shards(tmp_path / "shards")
    assert caught.value.lines[0].startswith(f"{tmp_path / 'shards'}: ")
    assert message in caught.value.lines[0]


COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"labels": [1, 2]},
        "no column 'label'; did you mean 'labels'? (its columns: labels)",
    ),
    "empty cell": (
        {"label": [1, None]},
        "column 'label' in rows 1 to 2 has empty cells; fill them, or leave out their rows",
    ),
    "ragged": (
        {"label": [[1, 2], [3]]},
        "column 'label' in rows 1 to 2 has lists of 2 and of 1 values; pad them",
    ),
    "texts": (
        {"label": [["a"], ["b"]]},
        "column 'label' in rows 1 to 2 has lists that are not of numbers; name another column",
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_parquet_column_is_refused(case: str, tmp_path: Path) -> None:
    columns, message = COLUMNS[case]
    write_parquet(path := tmp_path / "shards" / "a.parquet", columns)
    shards = open_shards(path.parent)
    with pytest.raises(InputError) as caught:
        shards.read(shards.blocks[0], 0, 2, ["label"])
    assert caught.value.lines == [f"{path}: {message}"]


def test_parquet_columns_are_converted(tmp_path: Path) -> None:
    import pyarrow as pa

    columns = {
        "number": [1.5, 2.5, 3.5],
        "flag": [True, False, True],
        "text": ["a", "b", "c"],
        "nested": pa.array([[[i, i + 1]] * 3 for i in range(3)], pa.list_(pa.list_(pa.uint8()))),
        "fixed": pa.array([[i, 0] for i in range(3)], pa.list_(pa.float32(), 2)),
        "struct": [{"bytes": bytes([i]), "path": "x"} for i in range(3)],
    }
    write_parquet(tmp_path / "shards" / "a.parquet", columns, group=2)
    shards = open_shards(tmp_path / "shards")
    parts = [shards.read(block, 0, block.rows, list(columns)) for block in shards.blocks]
    rows = join_rows(parts)
    assert rows["number"].tolist() == [1.5, 2.5, 3.5]
    assert rows["flag"].tolist() == [1, 0, 1]
    assert rows["text"] == ["a", "b", "c"]
    assert (rows["nested"].shape, rows["nested"].dtype) == ((3, 3, 2), np.uint8)
    assert rows["nested"][2].tolist() == [[2, 3]] * 3
    assert rows["fixed"].tolist() == [[0, 0], [1, 0], [2, 0]]
    assert rows["struct"] == [b"\0", b"\1", b"\2"]
    assert rows[KEY][2] == f"{tmp_path / 'shards' / 'a.parquet'}: row 3"


def test_parquet_part_of_a_row_group(tmp_path: Path) -> None:
    write_parquet(tmp_path / "shards" / "a.parquet", {"x": list(range(2000))}, group=1000)
    shards = open_shards(tmp_path / "shards")
    rows = shards.read(shards.blocks[1], 250, 800, ["x"])
    assert rows["x"].tolist() == list(range(1250, 1800))
    assert rows[KEY][0].endswith("row 1251")


def test_tar_rows_of_other_names_and_members(tmp_path: Path) -> None:
    path = tmp_path / "shards" / "a.tar"
    rows = [{"seg.png": b"s", "JPG": b"%d" % i, "txt": b" two words\n"} for i in range(100)]
    write_tar(path, rows)
    shards = open_shards(path.parent)
    assert [block.rows for block in shards.blocks] == [64, 36]
    read = shards.read(shards.blocks[1], 30, 36, ["jpg", "seg.png", "txt"])
    assert read["jpg"] == [b"%d" % i for i in range(94, 100)]
    assert (read["seg.png"][0], read["txt"][0]) == (b"s", "two words")
    with pytest.raises(InputError) as caught:
        shards.read(shards.blocks[1], 30, 36, ["cls"])
    members = "it has .seg.png, .jpg, .txt"
    assert caught.value.lines == [
        f"{path}: 000094: no member '.cls' ({members}); name another column"
    ]


def test_tar_member_that_cannot_be_read(tmp_path: Path) -> None:
    write_tar(path := tmp_path / "shards" / "a.tar", [{"json": b'{"a": 1}'}, {"json": b"{"}])
    shards = open_shards(path.parent)
    assert shards.read(shards.blocks[0], 0, 1, ["json.a"])["json.a"].tolist() == [1]
    for column, rows in (("json.b", (0, 1)), ("json.a", (1, 2))):
        with pytest.raises(InputError, match=rf"a.tar: 00000{rows[0]}.json: cannot be read \("):
            shards.read(shards.blocks[0], *rows, [column])


def test_counts_are_kept_until_a_shard_changes(digits: Path, cache: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "shards" / "a.tar", [{"cls": b"1"}, {"cls": b"0"}, {"cls": b"1"}])
    assert open_shards(tmp_path / "shards").count_values("cls") == {0: 1, 1: 2}
    files = {path: path.stat().st_mtime_ns for path in (cache / "shards").iterdir()}
    assert len(files) == 2
    assert open_shards(tmp_path / "shards").count_values("cls") == {0: 1, 1: 2}
    assert {path: path.stat().st_mtime_ns for path in (cache / "shards").iterdir()} == files
    write_tar(tmp_path / "shards" / "a.tar", [{"cls": b"cat"}, {"cls": b"cat"}] * 40)
    assert open_shards(tmp_path / "shards").count_values("cls") == {"cat": 80}
