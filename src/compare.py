"""Compare runs: what they reached, how they differ, their curves, and whether a difference is real.

python -m src.compare [RUN | FOLDER | 'digits/*' ...] [--sort METRIC] [--paired A B] [--html FILE] [--csv FILE]
"""

from __future__ import annotations

from pathlib import Path

from src.kindling.analysis.leaderboard import Board, as_csv, as_page, find, rank, read, show
from src.kindling.config.command import Parser, run_command
from src.kindling.config.errors import InputError
from src.kindling.runs import run as run_module
from src.kindling.runs.files import write


def main(argv: list[str]) -> list[Board]:
    usage = "[RUN | FOLDER | 'digits/*' ...] [--sort METRIC] [--paired A B] [--html FILE] [--csv FILE]"
    parser = Parser("compare", usage, "Rank runs, and say how they differ.")
    parser.add_argument("words", nargs="*", metavar="RUN", help="runs, folders, quoted patterns; all of logs/ if none")
    parser.add_argument("--sort", metavar="METRIC", help="rank all runs together, by this number")
    parser.add_argument("--paired", nargs=2, metavar=("A", "B"), help="whether the difference of two runs is real")
    parser.add_argument("--html", metavar="FILE", help="a page with the leaderboard and the curves")
    parser.add_argument("--csv", metavar="FILE", help="a table of all numbers, and of what differs in the configs")
    flags = parser.read(argv)
    pair = [read(path) for word in flags.paired or () for path in find(word)]
    if flags.paired and len(pair) != 2:
        raise InputError(f"--paired {' '.join(flags.paired)}: expected two runs, found {len(pair)}")
    words = flags.words or flags.paired or [str(run_module.LOGS)]
    runs = [read(path) for path in dict.fromkeys(path for word in words for path in find(word))]
    boards = rank(runs, flags.sort)
    for board in boards:
        show(board)
    ranked = {path for board in boards for row in board.rows for path in row.paths}
    lines = [f"not ranked: {run.name}: {'a newer run has its config and seed' if run.state == 'finished' else run.state}"
             for run in runs if run.paths[0] not in ranked]  # fmt: skip
    if len(boards) > 1:
        lines.append(
            "runs with another monitored metric, other data or a few batches of it are ranked apart; --sort METRIC ranks all"
        )
    if pair or (len(runs) == 2 and all(run.state == "finished" for run in runs)):
        from src.kindling.analysis.significance import paired

        a, b = pair or runs
        try:
            difference = paired(a, b)
            lines += [f"A = {a.name}, B = {b.name}, {difference.samples:,} test samples", str(difference)]
        except InputError as error:
            lines += [f"whether the difference is real cannot be tested: {line}" for line in error.lines]
    print("".join(f"{line}\n" for line in lines), end="")
    files = {flags.csv: as_csv(runs)} if flags.csv else {}
    files |= {flags.html: as_page(boards, lines)} if flags.html else {}
    for file, text in files.items():
        try:
            write(Path(file).expanduser(), text)
        except OSError as error:
            raise InputError(f"{file}: cannot be written: {error.strerror}") from None
        print(f"saved {file}")
    return boards


if __name__ == "__main__":
    run_command(main)
