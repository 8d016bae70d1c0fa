"""Train an experiment: fit it, test the best checkpoint, and leave a run in logs/.

python -m src.train [CONFIG] [key=value ...] [--flags]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.kindling import analysis
from src.kindling.config.command import TRUSTED, Parser, run_command
from src.kindling.studies.flags import add_flags, run_instead
from src.kindling.training.distributed import rank
from src.kindling.training.launch import launch, print_result

if TYPE_CHECKING:
    from src.kindling.training import Result

SEEDS = "train with each seed and report the spread; takes the flags of src.tune"


def main(argv: list[str]) -> Result | None:
    parser = Parser("train", __doc__, with_configs=True)
    add = parser.add_argument
    add("words", nargs="*", metavar="CONFIG, key=value", help="a config, and changes to it")
    add("--init", metavar="RUN", help="start from the weights of another run")
    add(
        "--partial",
        action="store_true",
        help="with --init: accept weights for less than half of the net",
    )
    add("--by-order", action="store_true", help="with --init: match other names by order")
    add("--resume", metavar="RUN", help="continue a run in its own directory")
    add("--override", action="store_true", help="with --resume: accept config and data changes")
    add("--trust", action="store_true", help=TRUSTED)
    add("--no-plots", action="store_true", help="write no plots/ and no report.html")
    add("--graph", action="store_true", help="write the net's graph to TensorBoard")
    add("--no-test", action="store_true", help="do not measure the test split")
    add("--find", choices=("lr", "batch_size"), metavar="WHAT", help="find an lr or batch_size")
    add("--seeds", metavar="0,1,2", help=SEEDS)
    add("--show", action="store_true", help="print the config and the net; train nothing")
    add("--dry-run", action="store_true", help="--show, and try one batch of each stage")
    add_flags(parser, visible=False)
    flags = parser.read(argv)
    if run_instead(flags):
        return None
    plots = None if flags.no_plots else lambda run: analysis.Plots(run, graph=flags.graph)
    result = launch(flags, plots)
    if not rank(result.run.config.values):  # else the first process has yet to write how it ended
        print_result(result)
    return result


if __name__ == "__main__":
    run_command(main)
