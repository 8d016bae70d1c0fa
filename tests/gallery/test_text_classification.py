"""Padding changes nothing, buckets need little of it, and the verdicts are those of the words."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from torch.utils.data import RandomSampler

from src.gallery.text_classification import (
    BAD,
    GOOD,
    MOST_WORDS,
    WORDS,
    Buckets,
    ReviewClassifier,
    Reviews,
    collate,
    write_review,
)
from tests.conftest import train


def make_task() -> ReviewClassifier:
    torch.manual_seed(0)
    return ReviewClassifier(len(WORDS), counts=(5, 2, 5), baselines={}, width=8).eval()


def judge(words: list[str]) -> int:
    """The verdict, counted in another way than where the review is written."""
    total, weight, sign = 0, 1, 1
    for word in words:
        weight = {"and": 1, "but": 2}.get(word, weight)
        sign = -1 if word == "not" else sign
        if word in GOOD + BAD:
            total += weight * sign * (1 if word in GOOD else -1)
            sign = 1
    return int(np.sign(total)) + 1


def test_class_of_a_review_is_the_verdict_of_its_words() -> None:
    rng = Random(1)
    reviews = [write_review(rng, noise=0.0) for _ in range(500)]
    assert [label for _, label in reviews] == [judge(words) for words, _ in reviews]
    assert max(len(words) for words, _ in reviews) <= MOST_WORDS
    assert (
        judge(
            [
                "the",
                "story",
                "was",
                "good",
                "but",
                "the",
                "ending",
                "was",
                "not",
                "really",
                "clever",
            ]
        )
        == 0
    )


def test_noise_bounds_the_accuracy() -> None:
    rng = Random(1)
    reviews = [write_review(rng, noise=0.3) for _ in range(6000)]
    share = accuracy_score([label for _, label in reviews], [judge(words) for words, _ in reviews])
    assert share == pytest.approx(1 - 0.3 * 2 / 3, abs=0.02)


def test_padding_changes_neither_logits_nor_gradients() -> None:
    task = make_task()
    ids = torch.randint(1, len(WORDS), (2, 9))
    ids[1, 5:] = 0
    padded = torch.nn.functional.pad(ids, (0, 6))
    assert torch.allclose(task(padded), task(ids), atol=1e-6)
    assert torch.allclose(task(ids[1:, :5])[0], task(padded)[1], atol=1e-6)
    mask = padded != 0
    padded[~mask] = 7  # what stands at padded places is not read
    assert torch.allclose(task(padded, mask), task(ids), atol=1e-6)
    task(padded, mask).sum().backward()
    assert not task.word.weight.grad[0].any()  # type: ignore[index]


def test_collate_pads_to_the_longest() -> None:
    batch = collate([(torch.tensor([3, 4]), 1), (torch.tensor([5, 6, 7]), 2)])
    assert batch["input_ids"].tolist() == [[3, 4, 0], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[True, True, False], [True, True, True]]
    assert batch["labels"].tolist() == [1, 2]


def test_buckets_hold_each_sample_once_with_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(4, 48, size=1003).tolist()
    buckets = Buckets(RandomSampler(lengths), 16, lengths)

    def epoch(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return list(buckets)

    batches = epoch(0)
    assert sorted(i for batch in batches for i in batch) == list(range(1003))
    assert len(batches) == len(buckets) == 63
    assert epoch(0) == batches != epoch(1)

    def padding(batches: list[list[int]]) -> float:
        size = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
        return 1 - sum(lengths) / size

    whole = torch.randperm(1003).tolist()
    assert padding(batches) < 0.1 < 0.35 < padding([whole[i : i + 16] for i in range(0, 1003, 16)])
    means = [np.mean([lengths[i] for i in batch]) for batch in batches]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4  # short and long in random order


def test_reviews_share_no_text_between_splits() -> None:
    data = Reviews(reviews=300)
    data.setup("fit")
    texts = [tuple(ids.tolist()) for part in (data.train, data.val, data.test) for ids, _ in part]
    assert len(texts) == len(set(texts)) == 450
    assert sum(data.counts) == 300
    labels = [label for _, label in data.test]
    majority = labels.count(int(np.argmax(data.counts))) / len(labels)
    assert data.baselines["majority_accuracy"] == pytest.approx(majority)


def test_text_classification_trains() -> None:
    metrics = train("text_classification", "data.reviews=400").metrics
    assert 0.3 < metrics["test/majority_accuracy"] < metrics["test/bag_of_words_accuracy"] < 0.7
    assert {"val/loss", "val/accuracy", "test/loss", "test/accuracy"} <= set(metrics)
