"""Copy a task, net or data module that works, with its config and its test, under a new name.

python -m src.new task|net|data NAME [--like EXISTING]
"""

from __future__ import annotations

from pathlib import Path

from src.kindling.config.command import Parser, run_command
from src.kindling.dev.scaffold import (
    DEFAULTS,
    FOLDERS,
    copy_template,
    find_experiment,
    find_templates,
    list_edits,
    test_file,
)
from src.kindling.runs.files import display_path

ABOUT = "Copy a task, a net or data that works, with its config and its test, under a new name."


def main(argv: list[str]) -> dict[Path, str]:
    parser = Parser("new", "task|net|data NAME [--like EXISTING]", ABOUT)
    parser.add_argument(
        "kind", metavar="task|net|data", choices=tuple(FOLDERS), help="what to copy"
    )
    parser.add_argument(
        "name", metavar="NAME", help="of the new file, in lowercase letters: my_net"
    )
    defaults = ", ".join(f"{kind} {name}" for kind, name in DEFAULTS.items())
    parser.add_argument("--like", metavar="EXISTING", help=f"the one to copy (default: {defaults})")
    flags = parser.read(argv)
    kind, name, like = flags.kind, flags.name, flags.like or DEFAULTS[flags.kind]
    files = copy_template(kind, name, like)
    for path in files:
        print(f"wrote      {display_path(path)}")
    print(f"\nIt is a copy of {like} and runs unchanged. Edit, in this order:\n")
    for number, (place, what) in enumerate(list_edits(kind, files), 1):
        print(f"  {number:>2}  {place:<38}  {what}")
    words = name
    if kind != "task":
        words = f"{find_experiment(kind, find_templates(kind)[like])} {kind}={name}"
    print(f"\ntrain      python -m src.train {words}")
    test = display_path(test_file(FOLDERS[kind], name))
    print(f"test       python -m pytest {test}    (pip install -e '.[dev]' has pytest)")
    return files


if __name__ == "__main__":
    run_command(main)
