"""Backbones of torchvision and timm: their weights, their own preparation, a new head; and what a person is told."""

from __future__ import annotations

import gc
import hashlib
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from src.kindling.config.errors import InputError
from src.kindling.data.preprocess import InputStats, Resize, build_preprocess
from src.kindling.data.spec import Spec
from src.kindling.nn.pretrained import Pretrained
from src.kindling.training.evaluate import evaluate
from src.kindling.training.trained_run import load_run
from tests.conftest import train
from tests.file_server import Server

GREY = Spec(in_shape=(1, 8, 8), num_outputs=5, kind="image", classes=tuple("abcde"), max_value=16.0)
OFFLINE = "[Errno -2] Name or service not known"


def told(**arguments: Any) -> str:
    with pytest.raises((InputError, ValueError)) as caught:
        Pretrained(**{"in_shape": (1, 8, 8), "num_outputs": 5, **arguments}).load_weights()
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "stats"),
    [
        ("resnet18", InputStats(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        ("squeezenet1_1", InputStats(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        ("timm/resnet10t", InputStats(176, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        ("vit_tiny_patch16_224", InputStats(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
    ],
)
def test_backbone_has_new_head_and_own_statistics(name: str, stats: InputStats) -> None:
    net = Pretrained((1, 8, 8), 5, name, "none")
    assert net.input_stats == stats
    x = build_preprocess(GREY, net.input_stats)(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert x.shape == (2, 3, stats.size, stats.size)
    assert net.eval()(x).shape == (2, 5)
    small = Pretrained((3, 40, 40), 2, name, "none", size=64)
    assert small.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_gray_images_are_preprocessed_for_the_backbone() -> None:
    net = nn.Identity()
    net.input_stats = InputStats(2, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))  # type: ignore[assignment]
    x = torch.tensor([[0, 16], [8, 4]], dtype=torch.uint8).reshape(1, 1, 2, 2)
    seen = build_preprocess(GREY, net.input_stats)(x)
    assert seen[0, 0].tolist() == [[-1.0, 1.0], [0.0, -0.5]]
    assert seen[0, 1].tolist() == [[-1.0, 3.0], [1.0, 0.0]]
    assert seen[0, 2].tolist() == [[0.0, 1.0], [0.5, 0.25]]


@pytest.mark.parametrize("size", [3, 8, 20])
def test_backbone_preprocessing_in_onnx(size: int, tmp_path: Path) -> None:
    from onnxruntime import InferenceSession

    resize = Resize(size).eval()
    x = torch.arange(2 * 64, dtype=torch.uint8).reshape(2, 1, 8, 8)
    torch.onnx.export(
        resize,
        (x,),
        tmp_path / "resize.onnx",
        dynamic_shapes=({0: "batch"},),
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    x = torch.randint(0, 255, (5, 1, 8, 8), dtype=torch.uint8)
    answer = InferenceSession(tmp_path / "resize.onnx").run(None, {"x": x.numpy()})[0]
    assert np.abs(answer - resize(x).numpy()).max() < 1e-3  # of 255


@pytest.mark.parametrize("form", ["pth", "safetensors", "wrapped"])
def test_weights_without_head(form: str, tmp_path: Path) -> None:
    theirs = models.resnet18(num_classes=7)
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(theirs.state_dict(), path)
    elif form == "wrapped":
        torch.save(
            {"model": {f"module.{name}": value for name, value in theirs.state_dict().items()}},
            path,
        )
    else:
        torch.save(theirs.state_dict(), path)
    for name in ("resnet18", "timm/resnet18"):
        net = Pretrained((3, 32, 32), 7, name, str(path))
        net.load_weights()
        known = name.removeprefix("timm/")
        assert net.notes == [
            f"weights: 120 tensors of {known} from {path}; the head is new (not taken: fc)"
        ]
        x = torch.randn(2, 3, 32, 32)
        assert torch.allclose(theirs.fc(net.eval().body(x)), theirs.eval()(x), atol=1e-4)
        assert not torch.equal(net.head.weight, theirs.fc.weight)


def test_transformer_weights_at_another_size(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("vit_tiny_patch16_224")
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    net = Pretrained(
        (3, 32, 32), 7, "vit_tiny_patch16_224", str(tmp_path / "vit.safetensors"), size=64
    )
    net.load_weights()
    assert net.body.pos_embed.shape == (1, 17, 192)  # type: ignore[union-attr]
    assert torch.equal(net.body.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)  # type: ignore[union-attr, index]


def test_weights_are_needed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    torch.save(models.shufflenet_v2_x0_5(num_classes=7).state_dict(), path)
    words = ("net=pretrained", "net.name=shufflenet_v2_x0_5", "net.size=32", "data.classes=[0,1]")
    first = train("digits", *words, f"net.weights={path}", "finetune=head")
    assert (
        f"weights: 336 tensors of shufflenet_v2_x0_5 from {path}; the head is new (not taken: fc)"
        in (capsys.readouterr().out)
    )
    path.unlink()
    run = load_run(first.run.path)
    assert evaluate(run) == first.metrics
    assert run.predict(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))["probability"].shape == (2, 2)
    # The backbone of another run's checkpoint, whose head knows other classes.
    again = train(
        "digits",
        *words,
        "data.classes=[2,3]",
        f"net.weights={run.checkpoint_file}",
        "finetune=head",
    )
    old, new = run.checkpoint["state_dict"], again.run.checkpoint["state_dict"]
    assert all(torch.equal(new[name], old[name]) for name in new if name.startswith("net.body."))
    assert not torch.equal(new["net.head.weight"], old["net.head.weight"])


def test_color_jitter_on_backbone_input() -> None:
    train(
        "digits",
        "net=pretrained",
        "net.name=shufflenet_v2_x0_5",
        "net.size=32",
        "net.weights=none",
        "data.train_transforms=[{_target_: src.kindling.data.augment.ColorJitter, brightness: 0.5}]",
    )


def test_wrong_backbone_name_suggests_nearest() -> None:
    assert (
        told(name="resnet81")
        == "name: neither torchvision nor timm has 'resnet81'; did you mean 'resnet18'?"
    )
    assert told(name="timm/resnet81") == (
        "name: neither torchvision nor timm has 'timm/resnet81'; did you mean 'timm/resnet18'?"
    )
    assert told(name="convnext_atto.d2") == (
        "name: timm has no weights 'd2' of convnext_atto; did you mean 'convnext_atto.d2_in1k'? (it has: d2_in1k)"
    )


def test_missing_timm_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert Pretrained((1, 8, 8), 5, "resnet18", "none").source.name == "resnet18"
    assert told(name="resnet19d") == (
        "name: torchvision has no 'resnet19d'; did you mean 'resnet18'?; timm's nets need its extra: "
        "pip install -e '.[timm]'"
    )


def test_missing_network_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise URLError(socket.gaierror(-2, OFFLINE[11:]))

    monkeypatch.setattr("src.kindling.nn.pretrained.ROOT", tmp_path)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: unreachable())
    monkeypatch.setattr("src.kindling.nn.backbones.getproxies", dict)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert told(name="resnet18") == (
        "net.weights: https://download.pytorch.org/models/resnet18-f37072fd.pth could not be downloaded "
        "(Name or service not known); bring it as data/weights/resnet18-f37072fd.pth, or name a file: net.weights=PATH"
    )
    assert told(name="convnext_atto") == (
        "net.weights: https://huggingface.co/timm/convnext_atto.d2_in1k/resolve/main/model.safetensors could not be "
        "downloaded (Name or service not known); bring it as data/weights/convnext_atto.d2_in1k.safetensors, or name a "
        "file: net.weights=PATH"
    )
    kept = tmp_path / "data" / "weights" / "resnet18-f37072fd.pth"  # brought
    kept.parent.mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), kept)
    net = Pretrained((1, 8, 8), 5, "resnet18")
    net.load_weights()
    assert net.notes == [
        "weights: 120 tensors of resnet18 from data/weights/resnet18-f37072fd.pth; the head is new (not taken: fc)"
    ]


# torch.hub leaves its connection to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_hub_weights_are_downloaded_and_checked(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(models.shufflenet_v2_x0_5().state_dict(), tmp_path / "made.pth")
    content = (tmp_path / "made.pth").read_bytes()
    name = f"shufflenet-{hashlib.sha256(content).hexdigest()[:10]}.pth"
    load = torch.hub.load_state_dict_from_url
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url",
        lambda _, **how: load(server.url + name, **how),
    )
    monkeypatch.setattr("src.kindling.nn.pretrained.ROOT", tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert told(name="shufflenet_v2_x0_5").endswith(
        "could not be downloaded (Not Found); bring it as data/weights/shufflenetv2_x0.5-f707e7126e.pth, or name a file: "
        "net.weights=PATH"
    )
    server.files[name] = content[:-1] + b"?"  # not what its checksum says
    assert "could not be downloaded (invalid hash value" in told(name="shufflenet_v2_x0_5")
    assert not list(tmp_path.rglob("hub/**/*.pth"))
    server.files[name] = content
    for _ in range(2):
        net = Pretrained((1, 8, 8), 5, "shufflenet_v2_x0_5")
        net.load_weights()
        assert net.notes[0].startswith(
            "weights: 336 tensors of shufflenet_v2_x0_5 from the hub (shufflenetv2_x0.5-"
        )
    assert server.downloads == [name] * 3  # missing, damaged, whole; the last time, it was there
    assert "100%" in capsys.readouterr().err
    gc.collect()  # the connections, while their warnings are ignored


def test_weights_under_other_names_by_order(tmp_path: Path) -> None:
    theirs = models.resnet18(num_classes=7).state_dict()
    parts = {"conv1": "stem.0", "bn1": "stem.1", "fc": "classifier"}

    def renamed(name: str) -> str:
        part, _, rest = name.partition(".")
        return f"encoder.{parts.get(part, part)}.{rest}"

    path = tmp_path / "renamed.pth"
    torch.save({renamed(name): value for name, value in theirs.items()}, path)
    pairs = (
        "conv1.weight from encoder.stem.0.weight, bn1.weight from encoder.stem.1.weight, "
        "bn1.bias from encoder.stem.1.bias and 117 more"
    )
    assert told(weights=str(path)) == (
        f"net.weights: {path}: not of a resnet18: 120 of its 120 tensors do not fit, such as "
        f"conv1.weight ((64, 3, 7, 7) here, missing there); net.match=order takes {pairs}"
    )
    net = Pretrained((1, 8, 8), 5, weights=str(path), match="order")
    net.load_weights()
    assert net.notes == [
        f"weights: 120 tensors of resnet18 from {path}; the head is new (not taken: "
        "encoder.classifier)",
        f"weights: by order: {pairs}",
    ]
    for name, value in net.body.state_dict().items():
        assert torch.equal(value, theirs[name])
    torch.save(models.shufflenet_v2_x0_5().state_dict(), path)
    assert told(weights=str(path), match="order").endswith("(64, 3, 7, 7) here, missing there)")


def test_wrong_weight_files_are_refused(tmp_path: Path) -> None:
    assert told(weights=str(tmp_path / "no.pth")) == (
        f"net.weights: {tmp_path}/no.pth: no such file; 'hub' downloads them, and 'none' begins at random"
    )
    torch.save(models.shufflenet_v2_x0_5().state_dict(), tmp_path / "other.pth")
    assert told(weights=str(tmp_path / "other.pth")) == (
        f"net.weights: {tmp_path}/other.pth: not of a resnet18: 120 of its 120 tensors do not fit, such as conv1.weight "
        "((64, 3, 7, 7) here, missing there)"
    )
    torch.save(models.resnet18(), tmp_path / "code.pth")
    assert told(weights=str(tmp_path / "code.pth")) == (
        f"net.weights: {tmp_path}/code.pth: untrusted: it holds more than tensors and plain values; it was not loaded"
    )
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    assert told(weights=str(tmp_path / "tensor.pth")) == (
        f"net.weights: {tmp_path}/tensor.pth: holds no tensors by name; save a net's state_dict()"
    )
    (tmp_path / "text.pth").write_text("hello")
    assert told(weights=str(tmp_path / "text.pth")).startswith(
        f"net.weights: {tmp_path}/text.pth: cannot be read: "
    )
    assert (
        told(in_shape=(10,))
        == "net: resnet18 needs images of 1 or 3 channels, and the data is (10,); try net=mlp"
    )
