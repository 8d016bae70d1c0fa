"""Train an experiment: fit it, test the best checkpoint, and leave a run in logs/.

python -m src.train [CONFIG] [key=value ...] [--init RUN] [--resume RUN] [--override]
    [--no-pictures] [--no-test]
python -m src.train [CONFIG] [key=value ...] --seeds 0,1,2 [--workers 2] [--storage URL]
    [--name NAME] [--retry] [--pictures]
python -m src.train [CONFIG] [key=value ...] --find lr|batch_size
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from src.kindling.config.command import Parser, run_command, split_words
from src.kindling.studies.flags import add_flags, check_train_flags
from src.kindling.training.distributed import rank
from src.kindling.training.launch import launch, print_result

if TYPE_CHECKING:
    from src.kindling.analysis import Plots
    from src.kindling.runs import Run
    from src.kindling.training import Result

USAGE = "[CONFIG] [key=value ...] [--flags]"


def main(argv: list[str]) -> Result | None:
    parser = Parser("train", USAGE, "Train an experiment and test it.", with_configs=True)
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="CONFIG, key=value",
        help="a config's name, and values to change",
    )
    add("--init", metavar="RUN", help="begin with another run's weights")
    add("--resume", metavar="RUN", help="go on with a run, in its own directory")
    add("--override", action="store_true", help="with --resume: what differs from the run is meant")
    add("--no-pictures", action="store_true", help="leave out plots/ and report.html")
    add("--no-test", action="store_true", help="leave the test set unseen")
    add(
        "--find",
        choices=("lr", "batch_size"),
        metavar="WHAT",
        help="lr or batch_size: what to begin with",
    )
    add(
        "--seeds",
        metavar="0,1,2",
        help="train with each of them, and say how the results spread; with "
        "--workers, --storage, --name, --retry and --pictures, as src.tune has them",
    )
    add_flags(parser, visible=False)
    # A member of a study, in a process of its own: in this folder, while standard input is open.
    add("--member", metavar="FOLDER", help=argparse.SUPPRESS)
    flags = parser.read(argv)
    check_train_flags(flags)
    if flags.seeds:
        from src.kindling.studies.seeds import run_seeds

        run_seeds(flags.seeds, *split_words(flags.words), flags)
        return None
    if flags.find:
        from src.kindling.studies.find import find

        find(flags.find, *split_words(flags.words))
        return None
    result = launch(flags, None if flags.no_pictures else _plots)
    if not rank(result.run.config.values):  # else the first process has yet to write how it ended
        print_result(result)
    return result


def _plots(run: Run) -> Plots:
    from src.kindling.analysis import Plots

    return Plots(run)


if __name__ == "__main__":
    run_command(main)
