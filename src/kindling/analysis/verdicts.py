"""Test the runs of a comparison: two runs, two sets of seeds, or each row against the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from src.kindling.analysis.leaderboard import FOLD, VERDICT, Leaderboard, Row
from src.kindling.analysis.seed_significance import compare_seed_rows, format_seed_comparison
from src.kindling.analysis.significance import Difference, compare_paired, format_comparison
from src.kindling.config.errors import InputError, format_count, join_names


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
    """Add the column `vs best` where rows can be tested, and a line that explains it.

    A best row that was chosen by the samples of the tests may be any: the correction is for all
    pairs of rows.
    """
    marked, lines = [], []
    for board in boards:
        best, *others = board.rows
        found = {i: one for i, row in enumerate(others, start=1) if (one := _test(best, row))}
        if not found:
            marked.append(board)
            continue
        metrics = list(dict.fromkeys(one.metric for one in found.values()))
        is_by_validation = [name.startswith("val/") for name in (board.columns[1], *metrics)]
        is_chosen_apart = is_by_validation[0] and not any(is_by_validation[1:])
        count = len(found) if is_chosen_apart else math.comb(len(found) + 1, 2)
        verdicts = {0: "best"} | _judge(found, count)
        rows = [replace(row, verdict=verdicts.get(i, "-")) for i, row in enumerate(board.rows)]
        columns = [*board.columns[:2], VERDICT, *board.columns[2:]]
        marked.append(replace(board, rows=rows, columns=columns))
        tests = f"{', '.join(metrics)}; p < 0.05, Holm, {format_count(count, 'test')}"
        lines.append(f"{VERDICT} ({tests}): {_format_verdicts(rows)}")
    return marked, lines


def _format_verdicts(rows: Sequence[Row]) -> str:
    """`significantly worse: digits/1, digits/2; unclear: digits/3`."""
    words = {"better": "significantly better", "worse": "significantly worse", "unclear": "unclear"}
    names = {key: [row.name for row in rows if row.verdict == key] for key in words}
    return "; ".join(f"{words[key]}: {join_names(some)}" for key, some in names.items() if some)


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


def _judge(found: dict[int, Difference], count: int) -> dict[int, str]:
    """The verdict on each tested row, of a family of `count` tests."""
    verdicts = {}
    p_values = holm([one.p for one in found.values()], count)
    for (i, one), p in zip(found.items(), p_values, strict=True):
        is_significant = one.significant and p < 0.05
        verdicts[i] = ("better" if one.gain > 0 else "worse") if is_significant else "unclear"
    return verdicts


def holm(p_values: Sequence[float], count: int) -> list[float]:
    """Adjust p values of `count` tests, so that 5 % is the chance of any false positive.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
