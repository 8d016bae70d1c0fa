"""Compare runs: their metrics, config differences, curves, and the significance of a difference.

python -m src.compare [RUN | FOLDER | 'digits/*' ...] [--flags]
"""

from __future__ import annotations

from pathlib import Path

from src.kindling.analysis.leaderboard import Leaderboard, find, is_pair, list_unranked, rank, read
from src.kindling.config.command import EXACT, Parser, run_command
from src.kindling.config.errors import InputError, escape_control
from src.kindling.runs import run as run_module
from src.kindling.runs.files import write


def main(argv: list[str]) -> list[Leaderboard]:
    parser = Parser("compare", __doc__)
    parser.add_argument("words", nargs="*", metavar="RUN", help="runs, folders, quoted patterns")
    parser.add_argument("--sort", metavar="METRIC", help="rank all runs together by this metric")
    test = parser.add_mutually_exclusive_group()
    test.add_argument("--paired", nargs=2, metavar=("A", "B"), help="test two runs' difference")
    test.add_argument("--seeds", nargs=2, metavar=("A", "B"), help="test two sets of seeds")
    parser.add_argument("--html", metavar="FILE", help="write a page with leaderboard and curves")
    parser.add_argument("--csv", metavar="FILE", help="write all metrics and config differences")
    parser.add_argument("--exact", action="store_true", help=EXACT)
    flags = parser.read(argv)
    from src.kindling.analysis import leaderboard_formats, significance

    pair = [read(path) for path in find(flags.paired or ())]
    if flags.paired and len(pair) != 2:
        raise InputError(f"--paired {' '.join(flags.paired)}: expected two runs, got {len(pair)}")
    words = flags.words or flags.paired or flags.seeds or [str(run_module.LOGS)]
    runs = [read(path) for path in dict.fromkeys(find(words))]
    boards = rank(runs, flags.sort)
    lines = list_unranked(runs, boards)
    if flags.seeds:
        lines += significance.format_seed_comparison(flags.seeds, flags.sort)
    elif pair or is_pair(runs, named=len(flags.words) == 2):
        lines += significance.format_comparison(*pair or runs)
    elif flags.words:
        lines += [line for board in boards for line in significance.compare_with_best(board)]
    hidden = [name for board in boards for name in leaderboard_formats.show(board)]
    print("".join(f"{escape_control(line)}\n" for line in lines), end="")
    print(leaderboard_formats.format_hidden(hidden), end="")
    files = {flags.csv: leaderboard_formats.to_csv(runs, flags.exact)} if flags.csv else {}
    files |= {flags.html: leaderboard_formats.to_html(boards, lines)} if flags.html else {}
    for file, text in files.items():
        try:
            write(Path(file).expanduser(), text)
        except OSError as error:
            raise InputError(f"{file}: cannot be written: {error.strerror}") from None
        print(f"saved {file}")
    return boards


if __name__ == "__main__":
    run_command(main)
