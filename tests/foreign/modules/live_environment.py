"""A policy that trains on a simulation which runs beside it, and cannot be copied."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


def simulate(seed):
    """A pole that falls; yields its state, and takes a push."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.zeros(2)
    while True:
        push = yield state.clone()
        angle = state[0] + 0.1 * state[1]
        speed = state[1] + 0.1 * (angle + push) + 0.05 * torch.randn((), generator=generator)
        state = torch.stack([angle, speed]).clamp(-1, 1)


class Episodes(IterableDataset):
    def __init__(self, policy, steps):
        self.policy, self.steps = policy, steps

    def __iter__(self):
        for _ in range(self.steps):
            yield self.policy.observe()


class Policy(L.LightningModule):
    def __init__(self, steps=160, batch_size=16, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        self.simulation = None

    def forward(self, x):
        return self.net(x)[:, 0].tanh()

    @torch.no_grad()
    def observe(self):
        if self.simulation is None:
            self.simulation = simulate(seed=0)
            self.state = next(self.simulation)
        push = self(self.state[None])[0]
        before, self.state = self.state, self.simulation.send(push)
        return before, push, self.state

    def training_step(self, batch, batch_idx):
        before, _, _ = batch
        push = self(before)
        angle, speed = before[:, 0], before[:, 1]
        loss = (speed + 0.1 * (angle + push)).square().mean() + 0.01 * push.square().mean()
        self.log("loss", loss)
        return loss

    def train_dataloader(self):
        return DataLoader(Episodes(self, self.hparams.steps), batch_size=self.hparams.batch_size)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
