"""Test the runs of a comparison: two runs, two sets of seeds, or each row against the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from src.kindling.analysis.leaderboard import FOLD, VERDICT, Leaderboard, Row
from src.kindling.analysis.seed_significance import compare_seed_rows, format_seed_comparison
from src.kindling.analysis.significance import Difference, compare_paired, format_comparison
from src.kindling.config.errors import InputError


def judge(
    boards: Sequence[Leaderboard],
    runs: Sequence[Row],
    seeds: Sequence[str] | None,
    metric: str | None,
) -> tuple[list[Leaderboard], list[str]]:
    """Say in lines which differences are significant; of more than two runs, also in the boards.

    Args:
        runs: two are compared with each other, more with the best row of each board.
        seeds: two sets of seeds to compare instead, by `metric`.

    Raises:
        InputError: when a set of seeds is none.
    """
    if seeds:
        return [*boards], format_seed_comparison(seeds, metric)
    if len(runs) == 2:
        return [*boards], format_comparison(*runs)
    return mark_boards(boards)


def mark_boards(boards: Sequence[Leaderboard]) -> tuple[list[Leaderboard], list[str]]:
    """Add the column `vs best` where rows can be tested, and a line that explains it."""
    marked, counts = [], list[str]()
    for board in boards:
        best, *others = board.rows
        found = {i: one for i, row in enumerate(others, start=1) if (one := _test(best, row))}
        verdicts = {0: "best"} | _judge(found)
        rows = [replace(row, verdict=verdicts.get(i, "-")) for i, row in enumerate(board.rows)]
        columns = [*board.columns[:2], VERDICT, *board.columns[2:]]
        marked.append(replace(board, rows=rows, columns=columns) if found else board)
        counts += [str(len(found))] if found else []
    meaning = "significantly worse or better on the test split, or unclear"
    correction = f"p < 0.05 by Holm's correction for {' and '.join(counts)} tests"
    return marked, [f"{VERDICT}: {meaning} ({correction})"] if counts else []


def _judge(found: dict[int, Difference]) -> dict[int, str]:
    """The verdict on each tested row."""
    verdicts = {}
    p_values = holm([one.p for one in found.values()])
    for (i, one), p in zip(found.items(), p_values, strict=True):
        is_significant = one.significant and p < 0.05
        verdicts[i] = ("better" if one.gain > 0 else "worse") if is_significant else "unclear"
    return verdicts


def _test(best: Row, row: Row) -> Difference | None:
    """The gain of a row over the best one; None if it cannot be tested."""
    try:
        if len(best.paths) == len(row.paths) == 1:
            return compare_paired(best, row)
        if min(len(best.paths), len(row.paths)) > 1 and not best.config.get(FOLD):
            return compare_seed_rows(best, row).difference
    except InputError:
        pass
    return None


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p values of several tests, so that 5 % is the chance of any false positive.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979).
    """
    adjusted, largest, n = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, i in enumerate(sorted(range(n), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (n - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
