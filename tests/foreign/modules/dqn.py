"""Deep Q-learning on a corridor; the module plays, and its loader replays."""

import random
from collections import deque, namedtuple

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

Experience = namedtuple("Experience", "state action reward done next_state")


class Corridor:
    """Start in the middle; the right end pays 1, the left end nothing."""

    size = 7

    def reset(self):
        self.position = self.size // 2
        return self.observe()

    def observe(self):
        return nn.functional.one_hot(torch.tensor(self.position), self.size).float()

    def step(self, action):
        self.position += 1 if action == 1 else -1
        done = self.position in (0, self.size - 1)
        return self.observe(), float(self.position == self.size - 1), done


class ReplayDataset(IterableDataset):
    def __init__(self, buffer, sample_size):
        self.buffer, self.sample_size = buffer, sample_size

    def __iter__(self):
        yield from random.sample(self.buffer, min(self.sample_size, len(self.buffer)))


class DQN(L.LightningModule):
    def __init__(
        self,
        batch_size=16,
        lr=1e-2,
        gamma=0.9,
        sync_rate=5,
        replay_size=500,
        warm_start_steps=200,
        episode_length=160,
        eps_start=1.0,
        eps_end=0.1,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.env = Corridor()
        self.net, self.target_net = self.build(), self.build()
        self.target_net.load_state_dict(self.net.state_dict())
        self.buffer = deque(maxlen=replay_size)
        self.state = self.env.reset()
        self.total_reward, self.episodes = 0.0, 0
        for _ in range(warm_start_steps):
            self.play_step(epsilon=1.0)

    def build(self):
        return nn.Sequential(nn.Linear(Corridor.size, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x):
        return self.net(x)

    @torch.no_grad()
    def play_step(self, epsilon):
        explore = random.random() < epsilon
        action = random.randrange(2) if explore else int(self(self.state.to(self.device)).argmax())
        next_state, reward, done = self.env.step(action)
        self.buffer.append(Experience(self.state, action, reward, done, next_state))
        self.state = self.env.reset() if done else next_state
        self.total_reward += reward
        self.episodes += done

    def training_step(self, batch, batch_idx):
        hp = self.hparams
        self.play_step(max(hp.eps_end, hp.eps_start - self.global_step / 20))
        states, actions, rewards, dones, next_states = batch
        values = self.net(states).gather(1, actions.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            next_values = self.target_net(next_states).max(1)[0]
            next_values[dones] = 0.0
        loss = nn.functional.mse_loss(values, rewards.float() + hp.gamma * next_values)
        if self.global_step % hp.sync_rate == 0:
            self.target_net.load_state_dict(self.net.state_dict())
        self.log("train_loss", loss, batch_size=len(states))
        self.log("reward_per_episode", self.total_reward / max(self.episodes, 1))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=self.hparams.lr)

    def train_dataloader(self):
        dataset = ReplayDataset(self.buffer, self.hparams.episode_length)
        return DataLoader(dataset, batch_size=self.hparams.batch_size)
