"""Q-learning: the grid's wind and its optimum, the loss by hand, and batches that come from the buffer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.gallery.q_learning import (
    GOAL,
    START,
    Experiences,
    QLearning,
    WindyGrid,
    encode,
    follow,
    iterate_values,
    play_out,
)
from src.kindling.analysis import Predictions


def build(**options: float) -> QLearning:
    torch.manual_seed(0)
    task = QLearning(**options)  # type: ignore[arg-type]
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task


@pytest.mark.parametrize(
    ("state", "action", "expected"),
    [
        (30, 1, 31),  # right, no wind
        (30, 3, 30),  # left, into the wall
        (36, 1, 17),  # right, blown up by two
        (3, 0, 3),  # up and wind, into the upper wall
        (48, 3, 37),  # left, blown up by one: into the goal
    ],
)
def test_wind_and_walls(state: int, action: int, expected: int) -> None:
    assert follow(state, action) == expected


def test_optimum_of_the_book() -> None:
    assert iterate_values(gamma=1.0)[START] == -15  # Sutton and Barto, example 6.5
    assert iterate_values(gamma=1.0)[GOAL] == 0
    discounted = -(1 - 0.95**15) / (1 - 0.95)
    assert iterate_values(gamma=0.95)[START].item() == pytest.approx(discounted, rel=1e-4)


def test_optimal_values_lead_to_the_goal() -> None:
    values = iterate_values(gamma=1.0)
    assert play_out(lambda state: max(range(4), key=lambda a: values[follow(state, a)])) == -15
    assert play_out(lambda _: 3) == -200  # stays at the wall


def test_states_are_encoded_as_row_and_column() -> None:
    rows = encode(torch.tensor([0, START, GOAL]))
    assert rows.nonzero().tolist() == [[0, 0], [0, 7], [1, 3], [1, 7], [2, 3], [2, 14]]


def test_loss_by_hand_and_target_network_is_frozen() -> None:
    task = build(gamma=0.9)
    batch = torch.tensor([[30, 1, 31, 0], [48, 3, 37, 1]])  # the second one reaches the goal
    with torch.no_grad():
        after = task.target_net(encode(torch.tensor([31]))).max().item()
        taken = [task(batch[:1, 0])[0, 1].item(), task(batch[1:, 0])[0, 3].item()]
    gaps = np.abs([taken[0] - (0.9 * after - 1), taken[1] + 1])
    expected = np.where(gaps < 1, gaps**2 / 2, gaps - 0.5).mean()
    loss = task.training_step(batch, 0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in task.target_net.parameters())
    assert all(p.grad is not None for p in task.net.parameters())


def test_batches_are_played_experience_and_resume() -> None:
    task = build(batch_size=8, steps_per_batch=3)
    source = Experiences(task, batches=5)
    batches = list(source)
    assert len(batches) == len(source) == 5
    assert len(task.buffer) == 15
    assert {tuple(row) for batch in batches for row in batch.tolist()} <= set(task.buffer)
    for state, action, next_state, done in task.buffer:
        assert follow(state, action) == next_state
        assert done == (next_state == GOAL)
    source.load_state_dict({"number": 3})
    assert len(list(source)) == 2
    assert source.state_dict() == {"number": 5}
    assert len(list(source)) == 5  # the next epoch


def test_an_episode_ends_after_its_most_steps() -> None:
    task = build(epsilon_decay=1.0)
    task.env.steps = 199
    task.play()
    assert task.returns[-1] == -200
    assert (task.env.state, task.env.steps) == (WindyGrid().state, 0)


def test_columns_and_plot() -> None:
    task = build()
    with torch.inference_mode():
        columns = task.predict_step(next(iter(task.test_dataloader())), 0)
    assert columns["values"].shape == (70, 4)
    arrays = {name: column.numpy() for name, column in columns.items()}
    predictions = Predictions({"index": np.arange(70), **arrays}, None, "test")
    assert set(task.plot(predictions)) == {"policy"}
