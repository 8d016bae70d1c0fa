"""A small GPT that learns to write Python's reference manual, character by character."""

from __future__ import annotations

import textwrap
import time
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from src.kindling.analysis import Predictions

Batch = tuple[Tensor, Tensor]
VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))  # the same for each version of Python
NUMBERS = {character: number for number, character in enumerate(VOCABULARY)}
ASCII = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")  # quotes and dashes


def encode(text: str) -> Tensor:
    """Character numbers `(N,)`; a character outside the vocabulary becomes `?`."""
    return torch.tensor([NUMBERS.get(c, NUMBERS["?"]) for c in text.translate(ASCII)])


def read_manual() -> str:
    """The topics of `help()`, each paragraph once: many topics repeat parts of others."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    paragraphs = [part.strip("\n") for part in text.split("\n\n")]
    return "\n\n".join(dict.fromkeys(paragraphs))


class Windows(Dataset[Batch]):
    """Windows of T characters and those that follow; the last one is padded."""

    def __init__(self, ids: Tensor, T: int, shift: bool) -> None:
        self.ids, self.T, self.shift = ids, T, shift

    def __len__(self) -> int:
        return -(-(len(self.ids) - 1) // self.T) - self.shift  # rounded up

    def __getitem__(self, i: int) -> Batch:
        start = i * self.T + (int(torch.randint(self.T, ())) if self.shift else 0)
        chunk = self.ids[start : start + self.T + 1]
        padding = 0, self.T + 1 - len(chunk)  # after the end; the loss ignores targets of -100
        return F.pad(chunk[:-1], padding), F.pad(chunk[1:], padding, value=-100)  # each (T,)


class ManualText(LightningDataModule):
    """The manual's first 80 % for training, the next 10 % for validation, the rest for test.

    Args:
        context: characters in a window; in training each window starts at a random place.
        batch_size: windows in a batch.
    """

    def __init__(self, context: int = 64, batch_size: int = 16) -> None:
        super().__init__()
        self.context, self.batch_size, self.vocab_size = context, batch_size, len(VOCABULARY)

    def setup(self, stage: str) -> None:
        ids = encode(read_manual())  # (N,)
        self.train, self.val, self.test = ids.tensor_split([len(ids) * 8 // 10, len(ids) * 9 // 10])
        self.bigram_perplexity = bigram_perplexity(self.train, self.test, self.vocab_size)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def _loader(self, ids: Tensor, shuffle: bool = False) -> DataLoader[Batch]:
        return DataLoader(Windows(ids, self.context, shift=shuffle), self.batch_size, shuffle)


def bigram_perplexity(train: Tensor, test: Tensor, vocab_size: int) -> float:
    """The baseline: each character is predicted from the one before it, by counting pairs."""
    pairs = train[:-1] * vocab_size + train[1:]
    counts = torch.bincount(pairs, minlength=vocab_size**2).view(vocab_size, vocab_size)
    log_p = (counts + 0.1).double().log().log_softmax(dim=1)  # no pair is impossible
    return log_p[test[:-1], test[1:]].mean().neg().exp().item()


class Block(nn.Module):
    """Attention to earlier positions, then an MLP for each position, `(B, T, C)` to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, C / heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(B, T, C))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))  # type: ignore[no-any-return]


class CharLM(LightningModule):
    """Predict the next character from the ones before it.

    The column `measured/tokens_per_second` of metrics.csv differs between two equal trainings.

    Args:
        vocab_size: different characters.
        baseline: the perplexity of a simpler model, logged as `test/bigram_perplexity`.
        context: the most characters that a prediction sees.
        layers, width: of the transformer.
        lr: the largest learning rate; it rises for a tenth of the training, then falls to zero.
    """

    def __init__(
        self,
        vocab_size: int,
        baseline: float,
        context: int = 64,
        layers: int = 2,
        width: int = 64,
        lr: float = 4e-3,
    ) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads=4) for _ in range(layers)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocab_size))
        self.context, self.lr, self.baseline = context, lr, baseline
        self.example_input_array = torch.zeros(2, context, dtype=torch.long)

    def forward(self, ids: Tensor) -> Tensor:
        """Character numbers `(B, T)` to logits of each next character, `(B, T, vocab_size)`."""
        places = torch.arange(ids.shape[1], device=ids.device)
        logits: Tensor = self.head(self.blocks(self.token(ids) + self.position(places)))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.step_start = time.perf_counter()
        return self._loss(batch, "train/loss")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._loss(batch, "val/loss")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._loss(batch, "test/loss")

    def _loss(self, batch: Batch, name: str) -> Tensor:
        count = int((batch[1] >= 0).sum())  # without padding
        loss = self._nll(batch).sum() / count
        self.log(name, loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=count)
        return loss

    def _nll(self, batch: Batch) -> Tensor:
        """The negative log-likelihood of each character in nats, `(B, T)`; 0 at padding."""
        logits = self(batch[0]).transpose(1, 2)  # (B, vocab_size, T)
        return F.cross_entropy(logits, batch[1], ignore_index=-100, reduction="none")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # the step may still be running
        speed = batch[0].numel() / (time.perf_counter() - self.step_start)
        self.log("measured/tokens_per_second", speed, on_step=False, on_epoch=True)

    def on_test_epoch_end(self) -> None:
        self.log("test/perplexity", self.trainer.callback_metrics["test/loss"].exp())
        self.log("test/bigram_perplexity", self.baseline)

    def on_validation_epoch_end(self) -> None:
        self.log("val/perplexity", self.trainer.callback_metrics["val/loss"].exp())
        if isinstance(self.logger, TensorBoardLogger):
            text = self.generate("A class ", 300).replace("\n", "\n    ")
            self.logger.experiment.add_text("sample", "    " + text, self.global_step)

    @torch.inference_mode()
    def generate(self, prompt: str, tokens: int, temperature: float = 0.7, seed: int = 0) -> str:
        """Continue a prompt; low temperatures prefer probable characters, 1 is as learned."""
        generator = torch.Generator(self.device).manual_seed(seed)
        ids = encode(prompt).to(self.device)  # (T,)
        for _ in range(tokens):
            logits = self(ids[None, -self.context :])[0, -1]  # (vocab_size,)
            p = (logits / temperature).softmax(dim=0)
            ids = torch.cat([ids, torch.multinomial(p, 1, generator=generator)])
        return "".join(VOCABULARY[i] for i in ids.tolist())

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `target` and `nll` `(B, T)`, surprise in nats; `loss` `(B,)`."""
        nll = self._nll(batch)
        return {"target": batch[1], "nll": nll, "loss": nll.sum(1) / (batch[1] >= 0).sum(1)}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot the loss of each character at the split's start, and a generated text."""
        figure, style = Figure((7.2, 2.7)), {"family": "monospace", "fontsize": 7}
        figure.text(0.01, 0.94, "Shade: loss, up to 6 nats. Below: a generated text")
        ids, nll = predictions["target"][:6].clip(0), predictions["nll"][:6]  # each (6, T)
        for (row, place), surprise in np.ndenumerate(nll):
            at = 0.01 + 0.98 * place / self.context, 0.86 - 0.075 * row
            box = {"facecolor": (1, 0.4, 0, min(surprise / 6, 1)), "lw": 0, "pad": 1}
            character = VOCABULARY[ids[row, place]].replace("\n", "¶")
            figure.text(*at, character, style, bbox=box, parse_math=False)
        text = self.generate("A class ", 600)
        lines = textwrap.fill(" ".join(text.split()), 110)
        figure.text(0.01, 0.4, lines, style, va="top", parse_math=False)
        figure.set_label(text)  # the report shows it as text too
        return {"surprise": figure}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.1)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
