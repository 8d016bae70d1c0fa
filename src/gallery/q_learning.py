"""Reinforcement learning: deep Q-learning with replay and a target network in a windy grid."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from src.kindling.analysis import Predictions

ROWS, COLUMNS = 7, 10  # a state is the number of a cell, 0 to 69
START, GOAL = 30, 37  # in the fourth row
WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)  # cells that a move from a column is blown up
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left: rows and columns
MOST_STEPS = 200  # of an episode


class WindyGrid:
    """A walk from the start to the goal, in which each step costs 1.

    Source: Sutton and Barto, Reinforcement Learning, 2018, example 6.5.
    """

    def __init__(self) -> None:
        self.state, self.steps = START, 0

    def step(self, action: int) -> bool:
        """Move, and return whether the goal is reached."""
        self.state, self.steps = follow(self.state, action), self.steps + 1
        return self.state == GOAL


def follow(state: int, action: int) -> int:
    """Return the state after an action; the walls stop a move."""
    row, column = divmod(state, COLUMNS)
    down, right = MOVES[action]
    row = min(max(row + down - WIND[column], 0), ROWS - 1)
    return row * COLUMNS + min(max(column + right, 0), COLUMNS - 1)


def iterate_values(gamma: float) -> Tensor:
    """Return the optimal value of each state, `(70,)`, by value iteration."""
    after = torch.tensor([[follow(s, a) for a in range(4)] for s in range(ROWS * COLUMNS)])
    values = torch.zeros(ROWS * COLUMNS)
    for _ in range(200):
        values = (gamma * values[after] - 1).amax(dim=1)
        values[GOAL] = 0
    return values


class Experiences(IterableDataset[Tensor]):
    """Batches from the replay buffer; the agent plays before each.

    Because of `__len__`, none is drawn ahead of the training; the state makes it resumable.
    """

    def __init__(self, agent: QLearning, batches: int) -> None:
        self.agent, self.batches, self.number = agent, batches, 0

    def __len__(self) -> int:
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

    Kindling saves the buffer, the environment, epsilon and the returns with a checkpoint, since
    they are plain attributes: a resumed training plays on.

    Args:
        batches: per epoch.
        batch_size: experiences in a batch.
        steps_per_batch: steps that are played before each batch.
        gamma: discount of the next state's value.
        epsilon_decay: factor of epsilon, the share of random actions, at each step, down to 0.05.
        sync_every: batches after which the target network becomes a copy of the network.
        lr: the learning rate of Adam.
    """

    monitor, mode = "val/return", "max"
    optimal: Tensor

    def __init__(
        self,
        batches: int = 500,
        batch_size: int = 64,
        steps_per_batch: int = 4,
        gamma: float = 0.95,
        epsilon_decay: float = 0.9995,
        sync_every: int = 100,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers = [nn.Linear(ROWS + COLUMNS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(64, 4))
        self.target_net = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("optimal", iterate_values(gamma))
        self.env, self.epsilon = WindyGrid(), 1.0
        self.buffer: deque[tuple[int, int, int, bool]] = deque(maxlen=5000)  # as `play` fills it
        self.returns = [-float(MOST_STEPS)]  # of each episode

    def forward(self, states: Tensor) -> Tensor:
        """Values `(B, 4)` of the actions in states `(B,)`."""
        values: Tensor = self.net(encode(states))
        return values

    @torch.no_grad()
    def play(self) -> None:
        """Take a step: a random one with probability epsilon, else the best."""
        state, action = self.env.state, int(torch.randint(4, ()))
        if torch.rand(()) >= self.epsilon:
            action = int(self(torch.tensor([state], device=self.device)).argmax())
        done = self.env.step(action)
        self.buffer.append((state, action, self.env.state, done))
        self.epsilon = max(0.05, self.epsilon * self.hparams["epsilon_decay"])
        if done or self.env.steps == MOST_STEPS:
            self.returns.append(-float(self.env.steps))
            self.env = WindyGrid()

    def draw_batch(self) -> Tensor:
        """Play, then draw experiences `(B, 4)` from the buffer."""
        for _ in range(self.hparams["steps_per_batch"]):
            self.play()
        chosen = torch.randint(len(self.buffer), (self.hparams["batch_size"],)).tolist()
        return torch.tensor([self.buffer[i] for i in chosen])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        states, actions, next_states, done = batch.unbind(dim=1)
        if self.global_step % self.hparams["sync_every"] == 0:
            self.target_net.load_state_dict(self.net.state_dict())
        values = self(states).gather(1, actions[:, None])[:, 0]  # of the actions taken
        with torch.no_grad():
            best = self.target_net(encode(next_states)).amax(dim=1)
            targets = self.hparams["gamma"] * best * (1 - done) - 1
        loss = F.smooth_l1_loss(values, targets)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        self.log("train/return", self.returns[-1], on_step=False, on_epoch=True)
        return loss

    def validation_step(self, states: Tensor, batch_idx: int) -> None:
        actions = self(states).argmax(dim=1).tolist()
        self.log("val/return", play_out(lambda state: actions[state]))
        error = (self(states).amax(dim=1) - self.optimal[states])[states != GOAL]
        self.log("val/value_error", error.abs().mean())

    def test_step(self, states: Tensor, batch_idx: int) -> None:
        actions = self(states).argmax(dim=1).tolist()
        self.log("test/return", play_out(lambda state: actions[state]))
        random = np.random.default_rng(0)
        returns = [play_out(lambda _: int(random.integers(4))) for _ in range(100)]
        self.log("test/random_return", float(np.mean(returns)))
        self.log("test/optimal_return", iterate_values(gamma=1.0)[START])

    def predict_step(self, states: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Columns: the value of each action `(B, 4)`, and the optimal value of the state `(B,)`."""
        return {"state": states, "values": self(states), "optimal": self.optimal[states]}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """The best action in each cell, on its value, and the return of each episode."""
        values = predictions["values"]
        figure = Figure((9, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        grid = left.imshow(values.max(axis=1).reshape(ROWS, COLUMNS), vmin=-14, vmax=0)
        figure.colorbar(grid, ax=left, label="value of the best action", shrink=0.8)
        left.set(xticks=range(COLUMNS), xticklabels=WIND, xlabel="wind", yticks=[])
        for state, action in enumerate(values.argmax(axis=1).tolist()):
            row, column = divmod(state, COLUMNS)
            text = {START: "S", GOAL: "G"}.get(state, "↑→↓←"[action])
            left.text(column, row, text, ha="center", va="center", color="w")
        right.plot(self.returns, ".", markersize=3)
        right.set(xlabel="episode", ylabel="return in training")
        return {"policy": figure}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.net.parameters(), self.hparams["lr"])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Experiences(self, self.hparams["batches"]), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        states: Any = torch.arange(ROWS * COLUMNS)
        return DataLoader(states, batch_size=len(states))

    test_dataloader = val_dataloader


def encode(states: Tensor) -> Tensor:
    """Numbers of states `(B,)` as one-hot rows and columns `(B, 17)`."""
    row, column = F.one_hot(states // COLUMNS, ROWS), F.one_hot(states % COLUMNS, COLUMNS)
    return torch.cat([row, column], dim=1).float()


def play_out(choose: Callable[[int], int]) -> float:
    """Return the return of an episode with a policy, from a state to an action."""
    env, done = WindyGrid(), False
    while not done and env.steps < MOST_STEPS:
        done = env.step(choose(env.state))
    return -float(env.steps)
