"""The verdict of a review, where word order decides: variable lengths, padding and buckets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from matplotlib.figure import Figure
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler

from src.kindling.analysis import Classes, Predictions

Review = tuple[Tensor, int]  # word numbers (T,), and the class
Batch = dict[str, Tensor]
CLASSES = ("negative", "mixed", "positive")
GOOD = ("good", "great", "moving", "funny", "clever", "superb")
BAD = ("bad", "dull", "slow", "clumsy", "flat", "awful")
PARTS = ("story", "acting", "music", "camera", "ending", "dialogue")
OTHER = ("the", "was", "not", "really", "and", "but")
WORDS = ("<pad>", *GOOD, *BAD, *PARTS, *OTHER)  # a word's number is its index
MOST_CLAUSES, MOST_WORDS = 8, 55


def write_review(rng: Random, noise: float) -> tuple[list[str], int]:
    """A review and its class: "the story was good but the ending was not really clever" and 0.

    Each clause counts +1 or -1, after "but" doubly, and "not" inverts it; the sign of the sum is
    the verdict. With probability `noise` the class is drawn at random instead.
    """
    words, total = [], 0
    for i in range(rng.randint(1, MOST_CLAUSES)):
        but, inverted, praise = (rng.random() < p for p in (0.3, 0.4, 0.5))
        if i:
            words.append("but" if but else "and")
        words += ["the", rng.choice(PARTS), "was"]
        words += ["not"] if inverted else []
        words += ["really"] if rng.random() < 0.3 else []
        words.append(rng.choice(GOOD if praise else BAD))
        total += (2 if but and i else 1) * (1 if praise != inverted else -1)
    label = rng.randrange(3) if rng.random() < noise else (total > 0) - (total < 0) + 1
    return words, label


class Buckets(BatchSampler):
    """Batches of similar lengths in random order, for less padding.

    All is drawn from torch's generator, which Kindling seeds for each epoch, also a resumed one.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, lengths: Sequence[int]) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.lengths = lengths

    def __iter__(self) -> Iterator[list[int]]:
        order, B = list(self.sampler), self.batch_size
        for pool in range(0, len(order), 20 * B):  # sorting all would give the same batches always
            order[pool : pool + 20 * B] = sorted(
                order[pool : pool + 20 * B], key=self.lengths.__getitem__
            )
        for i in torch.randperm(len(self)).tolist():
            yield order[i * B : (i + 1) * B]


def collate(reviews: Sequence[Review]) -> Batch:
    """Pad to the longest review of the batch, T."""
    input_ids = pad_sequence([ids for ids, _ in reviews], batch_first=True)  # (B, T)
    labels = torch.tensor([label for _, label in reviews])  # (B,)
    return {"input_ids": input_ids, "attention_mask": input_ids != 0, "labels": labels}


class Reviews(LightningDataModule):
    """Generated reviews, each text once; the best possible accuracy is 1 - noise * 2 / 3.

    Args:
        reviews: for training; a quarter as many each for validation and test.
        noise: share of reviews with a random class.
        batch_size: reviews in a batch.
    """

    def __init__(self, reviews: int = 8000, noise: float = 0.06, batch_size: int = 64) -> None:
        super().__init__()
        self.reviews, self.noise, self.batch_size = reviews, noise, batch_size
        self.vocab_size = len(WORDS)

    def setup(self, stage: str) -> None:
        if hasattr(self, "train"):  # Lightning calls this before each stage
            return
        rng, texts = Random(0), dict[tuple[int, ...], int]()
        while len(texts) < self.reviews * 3 // 2:
            words, label = write_review(rng, self.noise)
            texts.setdefault(tuple(map(WORDS.index, words)), label)
        pairs = [(torch.tensor(ids), label) for ids, label in texts.items()]
        ends = self.reviews, self.reviews * 5 // 4
        self.train, self.val, self.test = pairs[: ends[0]], pairs[slice(*ends)], pairs[ends[1] :]
        self.counts = np.bincount([label for _, label in self.train]).tolist()
        self.baselines = score_baselines(self.train, self.test)

    def train_dataloader(self) -> DataLoader[Batch]:
        lengths = [len(ids) for ids, _ in self.train]
        buckets = Buckets(RandomSampler(self.train), self.batch_size, lengths)
        return self._loader(self.train, batch_sampler=buckets)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test, batch_size=self.batch_size)

    def _loader(self, reviews: list[Review], **options: Any) -> DataLoader[Batch]:
        return DataLoader(reviews, collate_fn=collate, **options)  # type: ignore[arg-type]


def score_baselines(train: Sequence[Review], test: Sequence[Review]) -> dict[str, float]:
    """The accuracy of the most frequent class, and of a logistic regression on word counts."""

    def count_words(reviews: Sequence[Review]) -> tuple[np.ndarray[Any, Any], list[int]]:
        counts = np.stack([np.bincount(ids, minlength=len(WORDS)) for ids, _ in reviews])
        return counts, [label for _, label in reviews]

    models = {"majority": DummyClassifier(), "bag_of_words": LogisticRegression(max_iter=1000)}
    fitted = {name: model.fit(*count_words(train)) for name, model in models.items()}
    return {f"{k}_accuracy": model.score(*count_words(test)) for k, model in fitted.items()}


class ReviewClassifier(LightningModule):
    """A GRU in both directions, averaged over the words; it takes no step at padding.

    Args:
        vocab_size: different words, with the padding, number 0.
        counts: training reviews of each class.
        baselines: metrics of simpler models by name, logged in the test.
        width: of the words' vectors and of the GRU in each direction.
        lr: the largest learning rate; it rises for a tenth of the training, then falls to zero.
    """

    def __init__(
        self,
        vocab_size: int,
        counts: Sequence[int],
        baselines: dict[str, float],
        width: int = 48,
        lr: float = 5e-3,
    ) -> None:
        super().__init__()
        self.outputs = Classes(CLASSES, counts)
        self.word = nn.Embedding(vocab_size, width, padding_idx=0)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(2 * width, len(CLASSES)))
        self.baselines, self.lr = baselines, lr
        # For an export as TorchScript: 21 and 22 words, and padding.
        self.example_input_array = torch.ones(2, MOST_WORDS, dtype=torch.long).tril(20)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Word numbers `(B, T)` to logits `(B, 3)`; the mask `(B, T)` is True for words."""
        mask = input_ids != 0 if attention_mask is None else attention_mask
        x, lengths = self.word(input_ids), mask.sum(dim=1)  # (B, T, C) and (B,)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)  # (B, T, 2 * C)
        mean = x.sum(dim=1) / lengths.unsqueeze(1)  # (B, 2 * C); x is 0 at padding
        logits: Tensor = self.head(mean)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")
        self.log_dict({f"test/{name}": value for name, value in self.baselines.items()})

    def _step(self, batch: Batch, stage: str) -> Tensor:
        labels, logits = batch["labels"], self(batch["input_ids"], batch["attention_mask"])
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        values = {f"{stage}/loss": loss, f"{stage}/accuracy": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(labels))
        return loss

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `target`, `prediction`, `probability`, and `words` `(B, 55)`, padded."""
        ids = batch["input_ids"]
        words = F.pad(ids, (0, MOST_WORDS - ids.shape[1]))  # batches differ in length
        columns = self.outputs.columns(self(ids, batch["attention_mask"]))
        return {"target": batch["labels"], "words": words, **columns}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot some reviews with the probabilities of their classes; the true one in brackets."""
        figure = Figure((7.6, 3.6), layout="constrained")
        axis = figure.subplots()
        short = (predictions["words"] > 0).sum(axis=1) <= 17
        shown = predictions.take(np.flatnonzero(short)[:14])
        bars, left = np.arange(len(shown)), np.zeros(len(shown))
        for k, color in enumerate(("tab:red", "0.8", "tab:blue")):
            axis.barh(bars, shown["probability"][:, k], left=left, color=color, label=CLASSES[k])
            left += shown["probability"][:, k]
        texts = [" ".join(WORDS[i] for i in ids if i) for ids in shown["words"]]
        truth = [f" [{CLASSES[label]}]" for label in shown["target"]]
        axis.set_yticks(bars, np.char.add(texts, truth), fontsize=7)
        axis.set(xlabel="probability", xlim=(0, 1))
        figure.legend(fontsize=7, ncols=3, loc="outside upper right")
        return {"reviews": figure}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
