"""CIFAR's files: what is read from them, and what is refused before anything of it is unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.cifar import CIFAR10, CIFAR100
from src.kindling.config.errors import InputError
from src.kindling.data.samples import STAGES
from tests import make_cifar


@pytest.fixture(params=[CIFAR10, CIFAR100])
def data(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CIFAR10:
    known = request.param.source
    for attribute, value in make_cifar.write(tmp_path, known, 1000, 200).items():
        monkeypatch.setattr(known, attribute, value)
    made: CIFAR10 = request.param(data_dir=str(tmp_path), split=(0.9, 0.1, 0))
    return made


@pytest.mark.filterwarnings(r"ignore:dtype\(\):Warning")  # torchvision's own reading
def test_samples_equal_torchvision(data: CIFAR10, tmp_path: Path) -> None:
    data.prepare_data()
    data.setup()
    samples = data.samples
    assert isinstance(samples.x, torch.Tensor)
    assert (samples.x.dtype, samples.x.shape, samples.y.dtype) == (
        torch.uint8,
        (1200, 3, 32, 32),
        torch.int64,
    )
    assert [len(data.indices[stage]) for stage in STAGES] == [900, 100, 200]
    for train, part in ((True, slice(0, 1000)), (False, slice(1000, None))):
        reference = data.source(tmp_path, train=train)
        assert np.array_equal(samples.x[part].permute(0, 2, 3, 1).numpy(), reference.data)
        assert samples.y[part].tolist() == reference.targets
        assert list(samples.classes) == reference.classes
    assert (
        data.spec.num_outputs
        == len(samples.classes)
        == int(data.source.__name__.removeprefix("CIFAR"))
    )


def test_wrong_file_is_not_unpickled(data: CIFAR10, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "evil",))

    known = data.source
    for name in (known.train_list[-1][0], known.test_list[0][0], known.meta["filename"]):
        path = tmp_path / known.base_folder / name
        right = path.read_bytes()
        path.write_bytes(pickle.dumps(Evil()))
        with pytest.raises(InputError) as caught:
            data.setup()
        (line,) = caught.value.lines
        assert line.startswith(f"{path}: its MD5 checksum is not ")
        assert line.endswith("delete it to have it downloaded again, or put the right one there")
        path.unlink()
        with pytest.raises(InputError) as caught:
            data.setup()
        assert caught.value.lines == [
            f"{path}: not readable; restore it, or delete it to download it again"
        ]
        path.write_bytes(right)
    assert not (tmp_path / "evil").exists()
