"""The language model sees no later character, and its perplexities are those counted by hand."""

from __future__ import annotations

import csv
import math

import pytest
import torch
import torch.nn.functional as F

from src.gallery.char_lm import (
    VOCABULARY,
    CharLM,
    ManualText,
    bigram_perplexity,
    encode,
    read_manual,
)
from tests.conftest import train


def make_task() -> CharLM:
    torch.manual_seed(0)
    return CharLM(len(VOCABULARY), baseline=11.0, context=8, layers=2, width=16)


def test_prediction_depends_on_no_later_character() -> None:
    task = make_task()
    ids = torch.randint(len(VOCABULARY), (3, 8))
    changed = ids.clone()
    changed[:, 5:] = (ids[:, 5:] + 1) % len(VOCABULARY)
    before, after = task(ids), task(changed)
    assert before.shape == (3, 8, len(VOCABULARY))
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-2)


def test_nll_is_the_log_probability_of_the_next_character() -> None:
    task = make_task()
    ids, following = torch.randint(len(VOCABULARY), (2, 3, 8))
    nll = task.predict_step((ids, following), 0)["nll"]
    log_p = F.log_softmax(task(ids), dim=2)
    assert nll[2, 4].item() == pytest.approx(-log_p[2, 4, following[2, 4]].item(), rel=1e-5)


def test_bigram_perplexity_by_hand() -> None:
    text = torch.tensor([0, 1, 0, 1, 0, 0])  # 01 twice, 10 twice, 00 once
    p = torch.tensor([[1.1, 2.1], [2.1, 0.1]]) / torch.tensor([[3.2], [2.2]])
    test = torch.tensor([1, 0, 1])
    expected = math.exp(-(math.log(p[1, 0]) + math.log(p[0, 1])) / 2)
    assert bigram_perplexity(text, test, 2) == pytest.approx(expected, rel=1e-5)


def test_splits_share_no_window_and_follow_the_text() -> None:
    data = ManualText(context=50)
    data.setup("fit")
    text = encode(read_manual())
    assert torch.equal(torch.cat([data.train, data.val, data.test]), text)
    ids, following = next(iter(data.val_dataloader()))
    start = len(data.train)
    assert torch.equal(ids[1], text[start + 50 : start + 100])
    assert torch.equal(following[1], text[start + 51 : start + 101])
    assert len(data.train_dataloader().dataset) == (len(data.train) - 1) // 50  # type: ignore[arg-type]


def test_padding_does_not_count() -> None:
    data = ManualText(context=50, batch_size=1000)
    data.setup("fit")
    (ids, following) = list(data.test_dataloader())[-1]
    rest = (len(data.test) - 1) % 50
    assert torch.equal(following[-1, :rest], data.test[-rest:])
    assert following[-1, rest:].tolist() == [-100] * (50 - rest)
    assert (following[:-1] >= 0).all()
    torch.manual_seed(0)
    task = CharLM(len(VOCABULARY), baseline=11.0, context=50, layers=1, width=16)
    nll = F.cross_entropy(task(ids[-1:, :rest])[0], following[-1, :rest])
    assert task.predict_step((ids, following), 0)["loss"][-1].item() == pytest.approx(nll.item())
    changed = ids.clone()
    changed[-1, rest:] = 5
    losses = [task._nll((x, following)).sum() for x in (ids, changed)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


def test_paragraphs_occur_once() -> None:
    paragraphs = read_manual().split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 1000


def test_generate_continues_the_prompt_repeatably() -> None:
    task = make_task()
    text = task.generate("The while statement", 20)  # longer than the context
    assert text.startswith("The while statement")
    assert len(text) == 39
    assert task.generate("The while statement", 20) == text
    assert task.generate("The while statement", 20, seed=1) != text
    greedy = task.generate("a", 1, temperature=1e-6)
    best = task(encode("a")[None])[0, -1].argmax()
    assert greedy == "a" + VOCABULARY[best]


def test_char_lm_trains() -> None:
    result = train("char_lm")
    metrics = result.metrics
    assert metrics["test/perplexity"] == pytest.approx(math.exp(metrics["test/loss"]), rel=1e-5)
    assert 1 < metrics["test/bigram_perplexity"] < 20
    assert metrics["val/perplexity"] < len(VOCABULARY)
    with (result.run.path / "metrics.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    assert [float(row["val/perplexity"]) for row in epochs] == pytest.approx(
        [math.exp(float(row["val/loss"])) for row in epochs], rel=1e-4
    )
    assert all(float(row["measured/tokens_per_second"]) > 0 for row in epochs)
