"""Look at the data before training: a summary, and plots in a folder.

python -m src.look [CONFIG] [key=value ...]
"""

from __future__ import annotations

from src.kindling.analysis.look import Look, look
from src.kindling.config.command import Parser, run_command, split_words
from src.kindling.config.compose import compose
from src.kindling.config.errors import escape_control
from src.kindling.runs.files import display_path


def main(argv: list[str]) -> Look:
    parser = Parser("look", __doc__, with_configs=True)
    about = "a config's name, and values to change"
    parser.add_argument("words", nargs="*", metavar="CONFIG, key=value", help=about)
    config = compose(*split_words(parser.read(argv).words))

    from src.kindling.config import instantiate
    from src.kindling.runs import run as run_module

    instantiate.check(config)
    folder = run_module.LOGS / config.name / "look"
    found = look(config, folder)
    print("\n".join(map(escape_control, found.summary)))
    print(f"plots       {display_path(folder)}: {', '.join(path.name for path in found.plots)}")
    return found


if __name__ == "__main__":
    run_command(main)
