"""Words to a config: groups, values, where each came from, and what is said when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.kindling.config import compose as config_module
from src.kindling.config.compose import Config, compose, flatten
from src.kindling.config.errors import InputError


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configs/ folder to write into, holding one experiment `a` with a group or two."""
    folder = tmp_path / "configs"
    for name in ("data", "net", "trainer"):
        (folder / name).mkdir(parents=True)
    (folder / "a.yaml").write_text(
        "# An experiment.\ndefaults:\n  - data: one\n  - trainer: default\n"
        "data:\n  batch_size: 3\ntrainer:\n  max_epochs: 9\n"
    )
    (folder / "data" / "one.yaml").write_text("_target_: src.One\nbatch_size: 1\nonly_one: 1e-3\n")
    (folder / "data" / "two.yaml").write_text("defaults:\n  - one\nextra: true\n")
    (folder / "trainer" / "default.yaml").write_text("max_epochs: 1\ndefault_only: 1\n")
    (folder / "trainer" / "debug.yaml").write_text("limit: 3\n")
    monkeypatch.setattr(config_module, "CONFIGS", folder)
    return folder


def lines(name: str, *words: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        compose(name, words)
    return caught.value.lines


def test_experiment_overrides_parts(configs: Path) -> None:
    config = compose("a")
    assert config.values == {
        "data": {"_target_": "src.One", "batch_size": 3, "only_one": 0.001},
        "trainer": {"max_epochs": 9, "default_only": 1},
    }
    assert config.origin("data.batch_size") == "configs/a.yaml"
    assert config.origin("data.only_one") == "configs/data/one.yaml"


def test_swap_replaces_section(configs: Path) -> None:
    config = compose("a", ["data.extra=false", "data=two"])
    assert config.values["data"] == {
        "_target_": "src.One",
        "batch_size": 1,
        "only_one": 0.001,
        "extra": False,
    }
    assert config.origin("data.batch_size") == "configs/data/one.yaml"
    assert config.origin("data.extra") == "command line"


def test_swap_of_trainer_keeps_experiment_values(configs: Path) -> None:
    (configs / "trainer" / "debug.yaml").write_text("max_epochs: 1\nlimit: 3\n")
    assert compose("a", ["trainer=debug"]).values["trainer"] == {"max_epochs": 1, "limit": 3}
    (configs / "trainer" / "debug.yaml").write_text("limit: 3\n")
    assert compose("a", ["trainer=debug"]).values["trainer"] == {"max_epochs": 9, "limit": 3}


def test_trainer_option_with_defaults(configs: Path) -> None:
    (configs / "trainer" / "gpu.yaml").write_text("defaults:\n  - default\naccelerator: gpu\n")
    trainer = compose("a", ["trainer=gpu"]).values["trainer"]
    assert trainer == {"max_epochs": 9, "default_only": 1, "accelerator": "gpu"}


def test_swap_adds_section(configs: Path) -> None:
    (configs / "net" / "mlp.yaml").write_text("_target_: src.MLP\n")
    assert compose("a", ["net=mlp"]).values["net"] == {"_target_": "src.MLP"}


def test_new_target_replaces_section(configs: Path) -> None:
    for words in (["data._target_=src.New", "data.x=1"], ["data.x=1", "data._target_=src.New"]):
        assert compose("a", words).values["data"] == {"_target_": "src.New", "x": 1}
    assert compose("a", ["data._target_=src.One", "data.x=1"]).values["data"]["batch_size"] == 3


def test_new_target_in_file_replaces_section(
    configs: Path,
) -> None:
    (configs / "task").mkdir()
    (configs / "task" / "one.yaml").write_text(
        "_target_: src.Task\nloss: 1\noptimizer:\n  _target_: src.Old\n  lr: 1\n  decay: 2\n"
    )
    own = "task:\n  optimizer:\n    _target_: src.New\n    lr: 3\n"
    (configs / "c.yaml").write_text(f"defaults:\n  - task: one\n{own}")
    config = compose("c")
    assert config.values["task"] == {
        "_target_": "src.Task",
        "loss": 1,
        "optimizer": {"_target_": "src.New", "lr": 3},
    }
    assert "task.optimizer.decay" not in config.origins
    assert config.origins["task.optimizer.lr"] == "configs/c.yaml"
    (configs / "c.yaml").write_text(
        f"defaults:\n  - task: one\n{own.replace('src.New', 'src.Old')}"
    )
    assert compose("c").values["task"]["optimizer"] == {"_target_": "src.Old", "lr": 3, "decay": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~/cards", "~/cards"),
        ("a,b", "a,b"),
        ("My Pictures (2)", "My Pictures (2)"),
        ("ü=1", "ü=1"),
        ("1e-3", 0.001),
        ("-1", -1),
        ("[1, 2]", [1, 2]),
        ("null", None),
        ("", None),
        ("true", True),
        ("{a: 1}", {"a": 1}),
        ("2026-01-02", "2026-01-02"),
        ("${oc.env:HOME}", "${oc.env:HOME}"),
        ("'7'", "7"),
    ],
)
def test_override_is_yaml(configs: Path, text: str, value: object) -> None:
    assert compose("a", [f"data.x={text}"]).values["data"]["x"] == value


def test_replaced_item_of_list() -> None:
    config = Config("a", {"data": {"list": [{"p": 1}, {"p": 2}]}})
    assert config.replaced({"data.list.1.p": 3}).values == {"data": {"list": [{"p": 1}, {"p": 3}]}}
    with pytest.raises(
        InputError, match="data.list.2.p: expected the number of an item of the list"
    ):
        config.replaced({"data.list.2.p": 3})
    with pytest.raises(InputError, match="data.list.p.q: expected the number of an item"):
        config.replaced({"data.list.p.q": 3})


def test_replaced_copies(configs: Path) -> None:
    config = compose("a")
    changed = config.replaced({"data.batch_size": 7})
    assert (config.values["data"]["batch_size"], changed.values["data"]["batch_size"]) == (3, 7)


def test_all_mistakes_at_once(configs: Path) -> None:
    assert lines("b", "data=twoo", "tra=1", "trainer.x", "batch_size=3", "x='[") == [
        "trainer.x: expected key=value (command line)",
        "x: '[ is not valid YAML: found unexpected end of stream; quotes make it text: 'x=\"'[\"' (command line)",
        "b: no such config (configs/ has: a)",
        "data=twoo: no such option; did you mean 'two'? (configs/data/ has: one, two) (command line)",
        "tra: no such section; did you mean 'trainer'? (a config has: data, net, task, finetune, trainer, callbacks, logger, name, "
        "tags, seed, num_threads, compile, channels_last, checkpoint_minutes, max_nonfinite_steps, max_fast_forward, monitor, mode) (command line)",
        "batch_size: no such section; set data.batch_size=3 (command line)",
    ]


def test_class_as_option_of_group(configs: Path) -> None:
    assert lines("a", "net=src.nets.mlp.MLP") == [
        "net=src.nets.mlp.MLP: no such option; set net._target_=src.nets.mlp.MLP for a class (command line)"
    ]


def test_key_from_further_down(configs: Path) -> None:
    assert lines("a", "only_one=2") == [
        "only_one: no such section; did you mean 'data.only_one'? (command line)"
    ]


def test_mistakes_in_files(configs: Path) -> None:
    (configs / "a.yaml").write_text(
        "defaults:\n  - data: tow\n  - nets: x\n  - [1]\ndta:\n  x: 1\n"
    )
    assert lines("a") == [
        "data=tow: no such option; did you mean 'two'? (configs/data/ has: one, two) (configs/a.yaml)",
        "nets: no such group; did you mean 'net'? (configs/ has: data, net, trainer) (configs/a.yaml)",
        "configs/a.yaml: defaults: [1] is neither a file in the same folder nor 'group: option'",
        "dta: no such section; did you mean 'data'? (a config has: data, net, task, finetune, trainer, callbacks, logger, name, "
        "tags, seed, num_threads, compile, channels_last, checkpoint_minutes, max_nonfinite_steps, max_fast_forward, monitor, mode) (configs/a.yaml)",
    ]


def test_anchor_that_contains_itself(configs: Path) -> None:
    (line,) = lines("a", "data.x=&x [*x]")
    assert line.startswith("data.x: &x [*x] is not valid YAML: maximum recursion depth")
    (configs / "data" / "one.yaml").write_text("x: &x [*x]\n")
    assert lines("a") == [
        "configs/data/one.yaml: too deeply nested, or an anchor (&name) contains itself; remove the inner *name"
    ]


def test_yaml_error(configs: Path) -> None:
    (configs / "data" / "one.yaml").write_text("x: 1\ny: [1, 2\nz: 3\n")
    assert lines("a") == [
        "configs/data/one.yaml:3: not valid YAML: expected ',' or ']', but got ':'"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "x: 1\n  y: 2\n",
            ":2: not valid YAML: mapping values are not allowed here; check the indentation, and "
            "quote text with a colon",
        ),
        (
            "x:\n    y: 2\n  z: 1\n",
            ":3: not valid YAML: expected <block end>, but found '<block mapping start>'; "
            "check the indentation",
        ),
        (
            "x:\n\ty: 2\n",
            ":2: not valid YAML: found character '\\t' that cannot start any token; "
            "indent with spaces, not tabs",
        ),
    ],
)
def test_yaml_error_names_the_fix(configs: Path, text: str, line: str) -> None:
    (configs / "data" / "one.yaml").write_text(text)
    assert lines("a") == [f"configs/data/one.yaml{line}"]


@pytest.mark.parametrize("entry", ["override /data", "override data", "/data"])
def test_override_of_hydra_in_defaults(configs: Path, entry: str) -> None:
    (configs / "a.yaml").write_text(f"defaults:\n  - {entry}: two\n")
    assert lines("a") == [
        f"configs/a.yaml: defaults: '{entry}: two' is Hydra's; write `- data: two`"
    ]


def test_wrong_defaults(configs: Path) -> None:
    (configs / "data" / "one.yaml").write_text("defaults:\n  - one\n")
    assert lines("a") == [
        "configs/data/one.yaml: defaults: 'one' includes this file; remove one entry"
    ]
    (configs / "data" / "one.yaml").write_text("defaults: two\n")
    assert lines("a") == [
        "configs/data/one.yaml: defaults: expected a list such as '- data: digits', got 'two'"
    ]


def test_compose_by_file_name(configs: Path) -> None:
    assert compose("configs/a.yaml").name == "a"


def test_flatten() -> None:
    assert flatten({"a": {"b": [1, 2], "c": [{"d": 1}]}, "e": {}}) == {
        "a.b": [1, 2],
        "a.c.0.d": 1,
        "e": {},
    }


def test_mode_belongs_to_the_monitor_it_was_set_with(configs: Path) -> None:
    stop = "callbacks:\n  stop:\n    monitor: val/loss\n    mode: min\n"
    (configs / "b.yaml").write_text(f"defaults:\n  - a\nmonitor: val/loss\nmode: min\n{stop}")
    (configs / "c.yaml").write_text("defaults:\n  - b\nmonitor: val/f1\n")
    (configs / "d.yaml").write_text("defaults:\n  - b\nmode: max\n")

    def modes(name: str, *words: str) -> tuple[str | None, str | None]:
        values = compose(name, words).values
        return values.get("mode"), values["callbacks"]["stop"].get("mode")

    assert modes("b") == ("min", "min")
    assert modes("b", "monitor=val/f1") == (None, "min")
    assert modes("b", "monitor=val/f1", "mode=max") == ("max", "min")
    assert modes("b", "callbacks.stop.monitor=val/f1") == ("min", None)
    assert modes("c") == (None, "min")
    assert modes("d") == ("max", "min")
    run = Config("b", compose("b").values)  # a run's config has no origins
    assert "mode" not in config_module.change(run, ["monitor=val/f1"]).values
