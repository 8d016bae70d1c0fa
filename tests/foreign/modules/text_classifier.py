from __future__ import annotations

import random

import lightning as L
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader
from torchmetrics.classification import BinaryAccuracy

GOOD = "great lovely brilliant moving funny wonderful superb".split()
BAD = "awful boring dull terrible clumsy dreadful flat".split()
OTHER = "the a film plot actor scene and was with very music story it".split()


class Vocabulary:
    def __init__(self, texts: list[list[str]]):
        words = sorted({word for text in texts for word in text})
        self.index = {"<pad>": 0, "<unk>": 1, **{word: i + 2 for i, word in enumerate(words)}}

    def __len__(self) -> int:
        return len(self.index)

    def encode(self, text: list[str]) -> torch.Tensor:
        return torch.tensor([self.index.get(word, 1) for word in text])


def write_review(rng: random.Random) -> tuple[list[str], int]:
    label = rng.randint(0, 1)
    words = rng.choices(OTHER, k=rng.randint(3, 15)) + rng.choices(GOOD if label else BAD, k=2)
    rng.shuffle(words)
    return words, label


class ReviewDataModule(L.LightningDataModule):
    def __init__(self, size: int = 600, batch_size: int = 32, seed: int = 1):
        super().__init__()
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.vocab: Vocabulary | None = None

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def setup(self, stage: str | None = None):
        rng = random.Random(self.seed)
        reviews = [write_review(rng) for _ in range(self.size)]
        n = self.size * 8 // 10
        self.vocab = Vocabulary([text for text, _ in reviews[:n]])
        examples = [{"tokens": self.vocab.encode(t), "label": y} for t, y in reviews]
        half = (self.size - n) // 2
        self.splits = examples[:n], examples[n : n + half], examples[n + half :]

    @staticmethod
    def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
        tokens = [example["tokens"] for example in examples]
        return {
            "input_ids": pad_sequence(tokens, batch_first=True),
            "lengths": torch.tensor([len(t) for t in tokens]),
            "labels": torch.tensor([example["label"] for example in examples]).float(),
        }

    def train_dataloader(self):
        return DataLoader(self.splits[0], self.batch_size, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(self.splits[1], self.batch_size, collate_fn=self.collate)

    def test_dataloader(self):
        return DataLoader(self.splits[2], self.batch_size, collate_fn=self.collate)


class GRUClassifier(L.LightningModule):
    def __init__(self, vocab_size: int, dim: int = 16, lr: float = 1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.embed = nn.Embedding(vocab_size, dim, padding_idx=0)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Linear(dim, 1)
        self.loss = nn.BCEWithLogitsLoss()
        self.accuracy = nn.ModuleDict({f"{s}_metric": BinaryAccuracy() for s in ("val", "test")})

    def forward(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(
            self.embed(input_ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, hidden = self.rnn(packed)
        return self.head(hidden[-1]).squeeze(-1)

    def training_step(self, batch, batch_idx):
        logits = self(batch["input_ids"], batch["lengths"])
        loss = self.loss(logits, batch["labels"])
        self.log("train_loss", loss, batch_size=len(logits))
        return {"loss": loss, "logits": logits.detach()}

    def _shared_eval(self, batch, stage: str):
        logits = self(batch["input_ids"], batch["lengths"])
        metric = self.accuracy[f"{stage}_metric"]
        metric.update(logits, batch["labels"])
        self.log_dict(
            {f"{stage}_loss": self.loss(logits, batch["labels"]), f"{stage}_acc": metric},
            batch_size=len(logits),
        )

    def validation_step(self, batch, batch_idx):
        self._shared_eval(batch, "val")

    def test_step(self, batch, batch_idx):
        self._shared_eval(batch, "test")

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
