"""Character-level language model, in the manner of minGPT."""

import math

import lightning as L
import torch
import torch.nn as nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

TEXT = (
    """To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer the
slings and arrows of outrageous fortune, or to take arms against a sea of troubles. """
    * 12
)


class CharDataset(Dataset):
    def __init__(self, text, stoi, block_size):
        self.data = torch.tensor([stoi[c] for c in text], dtype=torch.long)
        self.block_size = block_size

    def __len__(self):
        return len(self.data) - self.block_size

    def __getitem__(self, idx):
        chunk = self.data[idx : idx + self.block_size + 1]
        return chunk[:-1], chunk[1:]


class CharData(L.LightningDataModule):
    def __init__(self, block_size=32, batch_size=64):
        super().__init__()
        self.block_size, self.batch_size = block_size, batch_size
        chars = sorted(set(TEXT))
        self.vocab_size = len(chars)
        stoi = {c: i for i, c in enumerate(chars)}
        n = int(0.9 * len(TEXT))
        self.train_set = CharDataset(TEXT[:n], stoi, block_size)
        self.val_set = CharDataset(TEXT[n:], stoi, block_size)

    def train_dataloader(self):
        return DataLoader(self.train_set, self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.batch_size)


class Block(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.n_head = n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.qkv, self.proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd)
        )

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.qkv(self.ln_1(x)).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln_2(x))


class GPT(L.LightningModule):
    def __init__(
        self,
        vocab_size,
        block_size=32,
        n_layer=1,
        n_head=2,
        n_embd=32,
        learning_rate=3e-3,
        weight_decay=0.1,
        warmup_steps=5,
        max_steps=60,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.tok_emb = nn.Embedding(vocab_size, n_embd)
        self.pos_emb = nn.Parameter(torch.zeros(1, block_size, n_embd))
        self.blocks = nn.Sequential(*[Block(n_embd, n_head) for _ in range(n_layer)])
        self.head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, idx):
        x = self.tok_emb(idx) + self.pos_emb[:, : idx.size(1)]
        return self.head(self.blocks(x))

    def _loss(self, batch):
        idx, targets = batch
        logits = self(idx)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log_dict({"val_loss": loss, "val_bpc": loss / math.log(2)}, prog_bar=True)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ):
        norm = nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.log("grad_norm", norm)

    def configure_optimizers(self):
        decay = [p for p in self.parameters() if p.dim() >= 2]
        no_decay = [p for p in self.parameters() if p.dim() < 2]
        groups = [
            {"params": decay, "weight_decay": self.hparams.weight_decay},
            {"params": no_decay, "weight_decay": 0.0},
        ]
        hp = self.hparams
        optimizer = torch.optim.AdamW(groups, lr=hp.learning_rate, betas=(0.9, 0.95))

        def factor(step):
            if step < hp.warmup_steps:
                return (step + 1) / hp.warmup_steps
            done = min(1.0, (step - hp.warmup_steps) / (hp.max_steps - hp.warmup_steps))
            return 0.5 * (1 + math.cos(math.pi * done))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
