"""The second pass: targets, arguments and types are checked against the signatures, and parts are built."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from omegaconf import DictConfig
from torch import nn

from src.kindling.config import instantiate, targets
from src.kindling.config.compose import compose
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Spec
from tests.conftest import checked, mistakes

ALLOWED = (
    "outside the allowed packages (src, torch.nn, torch.optim, torchvision.models, torchvision.ops, "
    "torchvision.transforms, timm.models, timm.layers, torchmetrics, lightning.pytorch, lightning.fabric.plugins); "
    "add its package or its full path to [tool.kindling] targets in pyproject.toml (command line)"
)
SPEC = Spec(in_shape=(3, 32, 32), num_outputs=7, kind="image", classes=tuple("abcdefg"))


def lines(*words: str, name: str = "digits") -> list[str]:
    config = compose(name, words)
    with pytest.raises(InputError) as caught:
        instantiate.check(config)
    return caught.value.lines


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "trainer.max_epoch=3",
            "trainer.max_epoch: Trainer has no argument 'max_epoch'; did you mean 'max_epochs'? (command line)",
        ),
        (
            "task.optimizer.lr=fast",
            "task.optimizer.lr: expected a number, got 'fast' (command line)",
        ),
        ("net._target_=os.system", f"net._target_: 'os.system' is {ALLOWED}"),
        ("net._target_=torch.os.system", f"net._target_: 'torch.os.system' is {ALLOWED}"),
        (
            "net._target_=lightning.pytorch.trainer.trainer.os.system",
            f"net._target_: 'lightning.pytorch.trainer.trainer.os.system' comes from 'posix', {ALLOWED}",
        ),
        (
            "net._target_=torch.nn.Module.__init__",
            "net._target_: 'torch.nn.Module.__init__': '__init__' is private; name a "
            "public class (command line)",
        ),
        (
            "net._target_=torchvision.models.detection.fasterrcnn_resnet50_fpn",
            "net.weights_backbone: fasterrcnn_resnet50_fpn downloads weights unless it is set; add net.weights_backbone=null "
            "(command line)",
        ),
        (
            "net._target_=src.nets.cnn.CNNN",
            "net._target_: 'src.nets.cnn' has no 'CNNN'; did you mean 'CNN'? (command line)",
        ),
        (
            "net._target_=src.nets.ccnn.CNN",
            "net._target_: 'src.nets' has no 'ccnn'; did you mean 'cnn'? (command line)",
        ),
        ("net._target_=torch.load", f"net._target_: 'torch.load' is {ALLOWED}"),
        ("net._target_=torch.hub.load", f"net._target_: 'torch.hub.load' is {ALLOWED}"),
        (
            "net._target_=torch.optim.SGD",
            "net._target_: expected Module, got 'torch.optim.SGD' (command line)",
        ),
        (
            "net._target_=torch.nn",
            "net._target_: 'torch.nn' is of type module, not a class (command line)",
        ),
        ("net._target_=5", f"net._target_: 5 is {ALLOWED}"),
        (
            "net=null",
            "task.net: Classification needs it, and it is not set; add a section net (configs/task/classification.yaml)",
        ),
        (
            "task.optimizer._target_=torch.nn.Linear",
            "task.optimizer._target_: expected Optimizer, got 'torch.nn.Linear' (command line)",
        ),
        (
            "task.scheduler._target_=torch.optim.lr_scheduler.StepLR",
            "task.scheduler.step_size: StepLR needs it, and it is not set; add task.scheduler.step_size=… (command line)",
        ),
        (
            "net.channels='???'",
            "net.channels: CNN needs it, and it is not set; add net.channels=… (command line)",
        ),
        (
            "net.width=3",
            "net.width: CNN has no argument 'width' (it accepts: in_shape, num_outputs, channels, dropout, global_pool) (command line)",
        ),
        (
            "trainer.callbacks=[]",
            "trainer.callbacks: not set here: use the section 'callbacks', which gives each a name "
            "(command line)",
        ),
        (
            "callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStoping",
            "callbacks.stop._target_: 'lightning.pytorch.callbacks' has no 'EarlyStoping'; did you mean 'EarlyStopping'? "
            "(command line)",
        ),
        (
            "callbacks=[]",
            "callbacks: expected named parts, each with its '_target_', got [] (command line)",
        ),
        ("seed=-1", "seed: expected a number greater than or equal to 0, got -1 (command line)"),
        (
            "num_threads=0",
            "num_threads: expected a number greater than or equal to 1 or null, got 0 (command line)",
        ),
        (
            "trainer.max_epochs.x=1",
            "trainer.max_epochs: expected a whole number or null, got {'x': 1} (command line)",
        ),
        ("data=[1]", "data: expected a part with a '_target_', got [1] (command line)"),
        ("tags=a", "tags: expected a list, got 'a' (command line)"),
        (
            "trainer.max_epochs=${spec.num_outputs}",
            "trainer.max_epochs: ${spec.num_outputs}: attributes of the data are only known in the sections net and task (command line)",
        ),
        (
            "data.train_transforms=[foo]",
            "data.train_transforms: expected parts with a '_target_' or null, got ['foo'] (command line)",
        ),
        (
            "data.batch_size=${oc.env:NO_SUCH_NAME}",
            "data.batch_size: ${oc.env:NO_SUCH_NAME}: Environment variable 'NO_SUCH_NAME' not found (command line)",
        ),
    ],
)
def test_mistake(word: str, line: str) -> None:
    assert lines(word) == [line]


def test_all_mistakes_at_once() -> None:
    found = lines(
        "net.widht=3", "task.loss.label_smoothing=a", "trainer.precision=17", "data.batch_size=[1]"
    )
    assert [line.partition(":")[0] for line in found] == [
        "data.batch_size",
        "net.widht",
        "task.loss.label_smoothing",
        "trainer.precision",
    ]


def test_import_error_in_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import src.nets

    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "needs.py").write_text("import no_such_package\n")
    monkeypatch.setattr(src.nets, "__path__", [*src.nets.__path__, str(tmp_path)])
    (line,) = lines("net._target_=src.nets.broken.Net")
    assert line.startswith(
        "net._target_: importing 'src.nets.broken' failed: SyntaxError: invalid syntax (broken.py"
    )
    assert lines("net._target_=src.nets.needs.Net") == [
        "net._target_: importing 'src.nets.needs' failed: ModuleNotFoundError: No module named 'no_such_package' (command line)"
    ]


def test_kwargs_of_function() -> None:
    assert lines("net._target_=torchvision.models.resnet18", "net.widht=3") == [
        "net.widht: resnet18 has no argument 'widht'; did you mean 'weights'? (command line)"
    ]
    config = checked(
        "digits", "net._target_=torchvision.models.resnet18", "net.num_classes=${spec.num_outputs}"
    )
    net = instantiate.build(
        config, "net", spec=SPEC, in_shape=SPEC.in_shape, num_outputs=SPEC.num_outputs
    )
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_kwargs_of_class() -> None:
    class Base:
        def __init__(self, a: int, b: int = 1) -> None: ...

    class Child(Base):
        def __init__(self, c: str, **base: Any) -> None: ...

    class Closed(Child):
        def __init__(self, d: str) -> None: ...

    assert list(targets.parameters(Child)) == ["a", "b", "c"]
    assert targets.parameters(Child)["a"].annotation is int
    assert list(targets.parameters(Closed)) == ["d"]


class Trunk(nn.Module):
    """As in a project of Hydra: it builds its parts itself."""

    def __init__(self, layers: DictConfig, head: Any = None, *, tail=None) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.layers, self.head, self.tail = layers, head, tail


def head() -> nn.Module:
    return nn.Identity()


class Bare(LightningDataModule):
    """Without a constructor: Lightning's would ignore any argument."""


@pytest.fixture
def own_package(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(targets, "allowed_by_user", lambda: ("tests",))
    return "tests.kindling.config.test_instantiate"


def build_trunk(own_package: str, *words: str) -> Any:
    config = compose("digits", [f"net._target_={own_package}.Trunk", *words])
    instantiate.check(config, ("net",))
    return instantiate.build(config, "net")


def test_mapping_for_a_dictconfig_is_not_built(own_package: str) -> None:
    net = build_trunk(own_package, "net.layers={_target_: torch.nn.Linear, width: '${seed}'}")
    assert isinstance(net.layers, DictConfig)
    assert net.layers == {"_target_": "torch.nn.Linear", "width": 0}


def test_parts_below_recursive_false_are_not_built(own_package: str) -> None:
    net = build_trunk(
        own_package,
        "net._recursive_=false",
        "net.layers.width=1",
        "net.tail._target_=torch.nn.ReLU",
    )
    assert isinstance(net.tail, DictConfig)
    assert net.tail == {"_target_": "torch.nn.ReLU"}


def test_mapping_without_annotation_has_attributes(own_package: str) -> None:
    net = build_trunk(own_package, "net.layers={}", "net.tail={lr: 1, nested: [{width: 2}]}")
    assert (net.tail.lr, net.tail.nested[0].width) == (1, 2)
    assert isinstance(net.tail, dict)


class OfNamespace(nn.Module):
    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.args = args


def test_mapping_for_a_namespace(own_package: str) -> None:
    words = [f"net._target_={own_package}.OfNamespace", "net.args={lr: 1}"]
    net = instantiate.build(compose("digits", words), "net")
    assert net.args == Namespace(lr=1)


def test_function_for_an_argument_without_annotation(own_package: str) -> None:
    net = build_trunk(own_package, "net.layers={}", f"net.head._target_={own_package}.head")
    assert isinstance(net.head, nn.Identity)


def test_dictconfig_of_a_stranger_names_no_parts(own_package: str) -> None:
    words = [f"net._target_={own_package}.Trunk", "net.layers.a._target_=torch.nn.ReLU"]
    config = dataclasses.replace(compose("digits", words), trusted=False)
    with pytest.raises(InputError, match="net.layers: its parts are not checked; if you trust"):
        instantiate.check(config, ("net",))


def test_argument_of_a_data_module_without_constructor(own_package: str) -> None:
    assert lines(f"data._target_={own_package}.Bare", "data.batch_sise=8") == [
        "data.batch_sise: Bare has no argument 'batch_sise' (it accepts: none) (command line)"
    ]


def test_partial_with_converted_values() -> None:
    config = checked("digits", "task.optimizer.betas=[0.8,0.9]", "task.loss.weight=[1,1,1,1,1,1,2]")
    task = instantiate.build(config, "task", net=nn.Flatten(), spec=SPEC)
    assert task.optimizer.func is torch.optim.AdamW
    assert task.optimizer.keywords["betas"] == (0.8, 0.9)
    assert torch.equal(task.loss.weight, torch.tensor([1, 1, 1, 1, 1, 1, 2]))


def test_nested_parts() -> None:
    words = [
        "task.metrics.top2._target_=torchmetrics.classification.MulticlassAccuracy",
        "task.metrics.top2.top_k=2",
        "task.metrics.top2.num_classes=${spec.num_outputs}",
    ]
    task = instantiate.build(checked("digits", *words), "task", net=nn.Flatten(), spec=SPEC)
    assert task.val_meter.metrics["top2"].num_classes == 7
    flip = "[{_target_: torchvision.transforms.v2.RandomHorizontalFlip, p: 0.25}]"
    data = instantiate.build(checked("digits", f"data.train_transforms={flip}"), "data", seed=0)
    assert data.transforms["train"][0].p == 0.25
    assert data.transforms["test"] is None


def test_refusal_of_library() -> None:
    with pytest.raises(InputError) as caught:
        instantiate.build(checked("digits", "trainer=gpu"), "trainer")
    assert caught.value.lines == [
        "trainer: Trainer: torch finds no GPU here; trainer=cpu does without (configs/trainer/gpu.yaml)"
    ]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "net.dropout=2",
            "net: CNN: dropout probability has to be between 0 and 1, but got 2.0 (command line)",
        ),
        (
            "net.channels=[0]",
            "net: CNN: expected at least 1 channel in each block, got [0] (command line)",
        ),
    ],
)
def test_refusal_of_constructor(word: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        instantiate.build(
            checked("digits", word), "net", spec=SPEC, in_shape=SPEC.in_shape, num_outputs=7
        )
    assert caught.value.lines == [line]


def test_missing_extra() -> None:
    with pytest.raises(InputError) as caught:
        instantiate.build(
            checked("digits", "logger.mine._target_=lightning.pytorch.loggers.CometLogger"),
            "logger.mine",
        )
    assert caught.value.lines[0].startswith("logger.mine: CometLogger: ")


def test_mode_without_monitor() -> None:
    finder = checked(
        "digits", "callbacks.find._target_=lightning.pytorch.callbacks.BatchSizeFinder"
    )
    assert (
        instantiate.build(finder, "callbacks.find", monitor="val/loss", mode="min")._mode == "power"
    )


def test_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIZE", "32")
    config = checked(
        "digits",
        "data.batch_size=${oc.decode:${oc.env:SIZE}}",
        "net.dropout=${task.loss.label_smoothing}",
        "task.loss.label_smoothing=0.5",
    )
    assert config.values["data"]["batch_size"] == "${oc.decode:${oc.env:SIZE}}"
    assert instantiate.resolve(config)["data"]["batch_size"] == 32
    assert instantiate.resolve(config)["net"]["dropout"] == 0.5
    assert instantiate.resolve(checked("digits", "name=run-${seed}"))["name"] == "run-0"


def test_missing_root() -> None:
    assert mistakes("train", "mask_folder") == [
        "data.root: MaskFolder needs it, and it is not set; add data.root=… (configs/data/mask_folder.yaml)"
    ]
