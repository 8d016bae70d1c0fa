"""Look at the data before training: a summary, and plots in a folder.

python -m src.look [CONFIG] [key=value ...]
"""

from __future__ import annotations

from pathlib import Path

from src.kindling.config.command import Parser, run_command, split_words
from src.kindling.config.compose import compose
from src.kindling.config.errors import escape_control
from src.kindling.runs.files import display_path


def main(argv: list[str]) -> tuple[list[str], list[Path]]:
    parser = Parser("look", __doc__, with_configs=True)
    about = "a config's name, and values to change"
    parser.add_argument("words", nargs="*", metavar="CONFIG, key=value", help=about)
    config = compose(*split_words(parser.read(argv).words))

    from src.kindling.analysis.look import look
    from src.kindling.config import instantiate
    from src.kindling.runs import run as run_module

    instantiate.check(config)
    folder = run_module.LOGS / config.name / "look"
    summary, plots = look(config, folder)
    print("\n".join(map(escape_control, summary)))
    print(f"plots       {display_path(folder)}: {', '.join(path.name for path in plots)}")
    return summary, plots


if __name__ == "__main__":
    run_command(main)
