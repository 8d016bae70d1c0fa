"""Q-learning: the grid's wind and its optimum, the loss by hand, and batches that come from the buffer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from src.gallery.q_learning import (
    AFTER,
    GOAL,
    START,
    STARTS,
    Experiences,
    QLearning,
    WindyGrids,
    evaluate_policy,
    follow,
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


def best(values: Tensor) -> Tensor:
    return values.amax(dim=1)


def test_optimum_of_the_book() -> None:
    assert evaluate_policy(best)[START] == -15  # Sutton and Barto, example 6.5
    assert evaluate_policy(best)[GOAL] == 0
    discounted = -(1 - 0.95**15) / (1 - 0.95)
    assert evaluate_policy(best, gamma=0.95)[START].item() == pytest.approx(discounted, rel=1e-4)


def test_policies_are_evaluated_as_they_are_played() -> None:
    assert evaluate_policy(lambda values: values[:, 3])[START] == -200  # stays at the wall
    torch.manual_seed(0)
    envs = WindyGrids(2000)
    while len(envs.returns) < 4000:
        envs.step(torch.randint(4, (2000,)))
    expected = evaluate_policy(lambda values: values.mean(dim=1))[STARTS].mean().item()
    assert np.mean(envs.returns) == pytest.approx(expected, abs=2)


def test_logged_returns_are_those_of_the_best_actions() -> None:
    task, logged = build(), dict[str, float]()
    task.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    task.net.forward = lambda rows_and_columns: evaluate_policy(best)[AFTER]  # type: ignore[method-assign]
    task.test_step(torch.arange(70), 0)
    assert logged["test/return_from_s"] == -15
    assert logged["test/return"] == logged["test/optimal_return"] > -9.5
    assert -15 < logged["test/soft_return"] < logged["test/return"]
    assert logged["test/random_return"] < -180
    assert logged["test/value_error"] > 0.1  # since these values are not discounted


def test_states_are_encoded_as_row_and_column() -> None:
    rows = build().encoding[[0, START, GOAL]]
    assert rows.nonzero().tolist() == [[0, 0], [0, 7], [1, 3], [1, 7], [2, 3], [2, 14]]


def test_loss_by_hand_and_target_network_is_frozen() -> None:
    task = build(gamma=0.9)
    batch = torch.tensor([[30, 1, 31, 0], [48, 3, 37, 1]])  # the second one reaches the goal
    with torch.no_grad():
        after = task.target_net(task.encoding[[31]]).max().item()
        taken = [task(batch[:1, 0])[0, 1].item(), task(batch[1:, 0])[0, 3].item()]
    gaps = np.abs([taken[0] - (0.9 * after - 1), taken[1] + 1])
    expected = np.where(gaps < 1, gaps**2 / 2, gaps - 0.5).mean()
    loss = task.training_step(batch, 0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in task.target_net.parameters())
    assert all(p.grad is not None for p in task.net.parameters())


def test_batches_are_played_experience_and_resume() -> None:
    task = build(batch_size=8, walks=3)
    source = Experiences(task, batches=5)
    batches = list(source)
    assert len(batches) == len(source) == 5
    played = task.buffer.tolist()
    assert len(played) == 15
    assert all(row in played for batch in batches for row in batch.tolist())
    for state, action, next_state, done in played:
        assert follow(state, action) == next_state
        assert done == (next_state == GOAL)
    for first, second in zip(played, played[3:], strict=False):  # of one walk
        assert first[3] or second[0] == first[2]
    source.load_state_dict({"number": 3})
    assert len(list(source)) == 2
    assert source.state_dict() == {"number": 5}
    assert len(list(source)) == 5  # the next epoch


def test_the_buffer_keeps_the_last_experiences() -> None:
    task = build(walks=20_000)
    for number in range(4):
        task.envs.states = torch.full((20_000,), number)
        task.draw_batch()
    assert task.buffer[:, 0].bincount().tolist() == [0, 10_000, 20_000, 20_000]


def test_an_episode_ends_after_its_most_steps_or_at_the_goal() -> None:
    envs = WindyGrids(3)
    envs.states = torch.tensor([START, START, 48])
    envs.steps = torch.tensor([199, 5, 5])
    experiences = envs.step(torch.tensor([3, 3, 3]))
    assert experiences.tolist() == [[30, 3, 30, 0], [30, 3, 30, 0], [48, 3, 37, 1]]
    assert envs.returns == [-200, -6]
    assert envs.steps.tolist() == [0, 6, 0]
    assert envs.states[1] == START
    assert GOAL not in envs.states


def test_columns_and_plot() -> None:
    task = build()
    with torch.inference_mode():
        columns = task.predict_step(next(iter(task.test_dataloader())), 0)
    assert columns["values"].shape == (70, 4)
    arrays = {name: column.numpy() for name, column in columns.items()}
    predictions = Predictions({"index": np.arange(70), **arrays}, None, "test")
    assert set(task.plot(predictions)) == {"policy"}  # before any episode has ended


def test_evaluation_of_a_part_of_the_states() -> None:
    """A process of a distributed evaluation gets a part of them."""
    task, logged = build(), []
    task.log = lambda _, value: logged.append(value)  # type: ignore[assignment, method-assign]
    task.validation_step(torch.arange(70), 0)
    task.validation_step(torch.arange(0, 70, 2), 0)
    assert logged[:4] == logged[4:]
