"""Cross-validate a config: every sample outside the test set is predicted by a training that did not see it.

    python -m src.crossval [CONFIG] [key=value ...] [--folds 5] [--repeats 1] [--workers 2] [--storage URL] [--name NAME]

Folds are stratified by class, keep groups together, or go by time, as the data says; statistics are those of each
fold's training samples, and the test set stays unseen. A fold is an ordinary run, one of `data.fold=[0,5,0]`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from src.kindling.config.command import Parser, run_command, split_words
from src.kindling.runs.files import shown
from src.kindling.studies.flags import add_flags
from src.kindling.studies.folds import draw, gather, plan_folds, score, summarize
from src.kindling.studies.plan import Outcome
from src.kindling.studies.study import begin, end, run_study, show_metrics


def main(argv: list[str]) -> list[Outcome]:
    parser = Parser("crossval", "[CONFIG] [key=value ...] [--folds 5] [--repeats 1] [--workers 2] [--storage URL] "
                    "[--name NAME] [--retry]", "Cross-validate a config.", with_configs=True)  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="CONFIG, key=value", help="a config's name, and values to change")
    parser.add_argument("--folds", type=int, default=5, help="how many (5)")
    parser.add_argument("--repeats", type=int, default=1, help="how often, each time with folds of their own (1)")
    add_flags(parser)
    flags = parser.read(argv)
    plan = plan_folds(*split_words(flags.words), flags.folds, flags.repeats, flags.workers)
    plan = replace(plan, study=flags.name or plan.study, storage=flags.storage, pictures=flags.pictures)
    found = run_study(plan, begin(plan), flags.workers, flags.retry)
    summary, predictions = summarize(plan, found), gather(plan, found)
    extra: dict[str, Any] = {"summary": summary}
    if summary:
        show_metrics({name: [f"{numbers['mean']:.4f} ± {numbers['std']:.4f}", f"{numbers['low']:.4f} to {numbers['high']:.4f}"]
                      for name, numbers in summary.items()}, ["mean ± std", "95 % interval of the mean"])  # fmt: skip
        print(f"plot       {shown(draw(plan, found, summary))}")
    if predictions is not None:
        extra["out_of_fold"] = score(predictions)
        predictions.save(plan.folder / "predictions.npz")
        told = ", ".join(f"{name} {value:.4f}" for name, value in extra["out_of_fold"].items())
        print(f"all folds  {told}; every prediction: {shown(plan.folder / 'predictions.npz')}")
    else:
        lacking = [one.name for one in found if not (plan.folder / one.name / "predictions" / "val.npz").exists()]
        print(f"all folds  not scored together: {', '.join(lacking)} failed, or {'lie' if len(lacking) > 1 else 'lies'} on "
              "another machine")  # fmt: skip
    end(plan, found, extra, [
        f"{name}: {numbers['mean']:.4f} ± {numbers['std']:.4f}, 95 % interval of the mean {numbers['low']:.4f} to "
        f"{numbers['high']:.4f}" for name, numbers in summary.items()
    ])  # fmt: skip
    return found


if __name__ == "__main__":
    run_command(main)
