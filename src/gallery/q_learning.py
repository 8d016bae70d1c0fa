"""Reinforcement learning: deep Q-learning with replay and a target network in a windy grid."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from src.kindling.analysis import Predictions

ROWS, COLUMNS = 7, 10  # a state is the number of a cell, 0 to 69
START, GOAL = 30, 37  # in the fourth row; in training, a walk starts in any cell but the goal
WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)  # cells that a move from a column is blown up
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left: rows and columns
MOST_STEPS = 200  # of an episode


def follow(state: int, action: int) -> int:
    """Return the state after an action; the walls stop a move."""
    row, column = divmod(state, COLUMNS)
    down, right = MOVES[action]
    row = min(max(row + down - WIND[column], 0), ROWS - 1)
    return row * COLUMNS + min(max(column + right, 0), COLUMNS - 1)


AFTER = torch.tensor([[follow(s, a) for a in range(4)] for s in range(ROWS * COLUMNS)])  # 70, 4
ROW_AND_COLUMN = torch.cat(  # one-hot, of each state: 70, 17
    [torch.eye(ROWS).repeat_interleave(COLUMNS, dim=0), torch.eye(COLUMNS).repeat(ROWS, 1)], dim=1
)
STARTS = torch.tensor([state for state in range(ROWS * COLUMNS) if state != GOAL])


class WindyGrids:
    """Walks to the goal, side by side; each step costs 1, and an ended walk begins again.

    Source: Sutton and Barto, Reinforcement Learning, 2018, example 6.5.
    """

    def __init__(self, count: int) -> None:
        self.states = STARTS[torch.randint(len(STARTS), (count,))]
        self.steps = torch.zeros(count, dtype=torch.long)
        self.returns: list[float] = []  # of each episode that has ended

    def step(self, actions: Tensor) -> Tensor:
        """Move by actions `(N,)`; return state, action, next state, and 1 at the goal: `(N, 4)`."""
        states, next_states = self.states, AFTER[self.states, actions]
        done = next_states == GOAL
        self.steps = self.steps + 1
        ended = done | (self.steps == MOST_STEPS)
        self.returns += (-self.steps[ended].float()).tolist()
        self.steps = self.steps * ~ended
        starts = STARTS[torch.randint(len(STARTS), states.shape)]
        self.states = torch.where(ended, starts, next_states)
        return torch.stack([states, actions, next_states, done], dim=1)


def evaluate_policy(policy: Callable[[Tensor], Tensor], gamma: float = 1.0) -> Tensor:
    """Return the value of each state, `(70,)`: the discounted return of an episode from there.

    Args:
        policy: from the values of the actions `(70, 4)` to those of the states `(70,)`.
        gamma: discount of the next state's value.
    """
    values = torch.zeros(len(AFTER))
    for _ in range(MOST_STEPS):
        values = policy(gamma * values[AFTER] - 1)
        values[GOAL] = 0
    return values


class Experiences(IterableDataset[Tensor]):
    """Batches from the replay buffer; the agent plays before each. The state is for a resume."""

    def __init__(self, agent: QLearning, batches: int) -> None:
        self.agent, self.batches, self.number = agent, batches, 0

    def __len__(self) -> int:  # without it, Lightning would draw a batch ahead of the training
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        self.number %= self.batches  # from the start, unless an epoch is resumed
        while self.number < self.batches:
            self.number += 1
            yield self.agent.draw_batch()

    def state_dict(self) -> dict[str, int]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.number = state["number"]


class QLearning(LightningModule):
    """Learn the value of each action in each state, from its own experience.

    Kindling's checkpoints hold the buffer, environments and epsilon: they are plain attributes.

    Args:
        batches: per epoch.
        batch_size: experiences in a batch.
        walks: environments, in each of which a step is played before each batch.
        gamma: discount of the next state's value.
        epsilon_decay: factor of epsilon, the share of random actions, at each step, down to 0.2.
        sync_every: batches after which the target network becomes a copy of the network.
        lr: the learning rate of Adam.
    """

    monitor, mode = "val/soft_return", "max"  # `return` is often the same in several epochs
    encoding: Tensor

    def __init__(
        self,
        batches: int = 250,
        batch_size: int = 128,
        walks: int = 16,
        gamma: float = 0.95,
        epsilon_decay: float = 0.999,
        sync_every: int = 100,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers = [nn.Linear(ROWS + COLUMNS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(64, 4))
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("encoding", ROW_AND_COLUMN, persistent=False)
        self.envs, self.epsilon = WindyGrids(walks), 1.0
        self.buffer = torch.zeros(0, 4, dtype=torch.long)  # the last 50,000 experiences

    def forward(self, states: Tensor) -> Tensor:
        """Values `(B, 4)` of the actions in states `(B,)`."""
        values: Tensor = self.net(self.encoding[states])
        return values

    @torch.no_grad()
    def draw_batch(self) -> Tensor:
        """Take a step in each environment, then draw experiences `(B, 4)` from the buffer."""
        best = self(self.envs.states.to(self.device)).argmax(dim=1).cpu()
        random = (torch.rand(len(best)) < self.epsilon) | (self.envs.steps == 0)  # and at starts
        actions = torch.where(random, torch.randint(4, best.shape), best)
        self.buffer = torch.cat([self.buffer, self.envs.step(actions)])[-50_000:]
        self.epsilon = max(0.2, self.epsilon * self.hparams["epsilon_decay"])
        return self.buffer[torch.randint(len(self.buffer), (self.hparams["batch_size"],))]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        states, actions, next_states, done = batch.unbind(dim=1)
        if self.global_step % self.hparams["sync_every"] == 0:
            self.target_net.load_state_dict(self.net.state_dict())
        values = self(states).gather(1, actions[:, None])[:, 0]  # of the actions taken
        with torch.no_grad():
            best = self.target_net(self.encoding[next_states]).amax(dim=1)
            targets = self.hparams["gamma"] * best * (1 - done) - 1
        loss = F.smooth_l1_loss(values, targets)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def evaluate(self, stage: str) -> None:
        """Log the return, a mean over starts, of the best actions and of those by softmax."""
        action_values = self.net(self.encoding).cpu()  # (70, 4): all states, also under DDP
        values, actions = action_values.max(dim=1)
        chances = (action_values / 0.1).softmax(dim=1)
        returns = evaluate_policy(lambda values: values.gather(1, actions[:, None])[:, 0])
        optimal = evaluate_policy(lambda values: values.amax(dim=1), self.hparams["gamma"])
        self.log(f"{stage}/return", returns[STARTS].mean())
        self.log(f"{stage}/return_from_s", returns[START])
        returns = evaluate_policy(lambda values: (values * chances).sum(dim=1))
        self.log(f"{stage}/soft_return", returns[STARTS].mean())
        self.log(f"{stage}/value_error", (values - optimal)[STARTS].abs().mean())

    def validation_step(self, states: Tensor, batch_idx: int) -> None:
        self.evaluate("val")

    def test_step(self, states: Tensor, batch_idx: int) -> None:
        self.evaluate("test")
        random = evaluate_policy(lambda values: values.mean(dim=1))
        self.log("test/random_return", random[STARTS].mean())
        optimal = evaluate_policy(lambda values: values.amax(dim=1))
        self.log("test/optimal_return", optimal[STARTS].mean())

    def predict_step(self, states: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `state`, and `values` `(B, 4)` of the actions."""
        return {"state": states, "values": self(states)}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """The best action in each cell, on its value, and the return of each episode."""
        values = predictions["values"]
        figure = Figure((8, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        best = values.max(axis=1) * (predictions["state"] != GOAL)
        grid = left.imshow(best.reshape(ROWS, COLUMNS), vmin=-11, vmax=0)
        figure.colorbar(grid, ax=left, label="value of the best action", shrink=0.8)
        left.set(xticks=range(COLUMNS), xticklabels=WIND, xlabel="wind", yticks=[])
        for state, action in enumerate(values.argmax(axis=1).tolist()):
            row, column = divmod(state, COLUMNS)
            text = {START: "S", GOAL: "G"}.get(state, "↑→↓←"[action])
            left.text(column, row, text, ha="center", va="center", color="w")
        right.plot(self.envs.returns, ".", markersize=1, alpha=0.3)
        right.plot(pd.Series(self.envs.returns, dtype=float).rolling(100).mean())
        right.set(xlabel="episode", ylabel="return in training, mean of 100")
        return {"policy": figure}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.net.parameters(), self.hparams["lr"])

    def train_dataloader(self) -> Experiences:
        return Experiences(self, self.hparams["batches"])  # batches: no DataLoader is needed

    def val_dataloader(self) -> DataLoader[Any]:
        states: Any = torch.arange(ROWS * COLUMNS)
        return DataLoader(states, batch_size=len(states))

    test_dataloader = val_dataloader
