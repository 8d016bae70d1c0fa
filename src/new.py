"""Begin a task, a net or data of your own: a copy of one that works, under a new name, with its config and its test.

    python -m src.new task|net|data NAME [--like EXISTING]

What is copied is a living module that the tests cover, so the copy trains and passes its own test as it stands; the
command says which lines to change, in order. No existing file is touched.
"""

from __future__ import annotations

from pathlib import Path

from src.kindling.config.command import Parser, run_command
from src.kindling.dev.scaffold import FOLDERS, LIKE, _shown, _test, living, new, steps, trained_by


def main(argv: list[str]) -> dict[Path, str]:
    parser = Parser("new", "task|net|data NAME [--like EXISTING]",
                    "Copy a task, a net or data that works, with its config and its test, under a new name.")  # fmt: skip
    parser.add_argument("kind", metavar="task|net|data", choices=tuple(FOLDERS), help="what to begin")
    parser.add_argument("name", metavar="NAME", help="of the new file, in small letters: my_net")
    parser.add_argument("--like", metavar="EXISTING", help="what to copy; left out: " + ", ".join(
        f"{like} for {'data' if kind == 'data' else f'a {kind}'}" for kind, like in LIKE.items()))  # fmt: skip
    flags = parser.read(argv)
    like = flags.like or LIKE[flags.kind]
    files = new(flags.kind, flags.name, like)
    for path in files:
        print(f"wrote      {_shown(path)}")
    print(f"\nIt is a copy of {like}, and runs as it is. Change, in this order:\n")
    for number, (place, about) in enumerate(steps(flags.kind, files), 1):
        print(f"  {number:>2}  {place:<38}  {about}")
    old = living(flags.kind)[like]
    word = flags.name if flags.kind == "task" else f"{trained_by(flags.kind, old)} {flags.kind}={flags.name}"
    print(f"\ntrain      python -m src.train {word}")
    print(
        f"test       python -m pytest {_shown(_test(flags.kind, flags.name))}    (pip install -e '.[dev]' has pytest)"
    )
    return files


if __name__ == "__main__":
    run_command(main)
