"""Copy a task, net or data module that works under a new name, or make the clone your project.

python -m src.new task|net|data|project NAME [--like EXISTING] [--author "Name <email>"]
"""

from __future__ import annotations

from pathlib import Path

from src.kindling.config.command import Parser, run_command
from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.dev import scaffold
from src.kindling.dev.project import make_project
from src.kindling.runs.files import display_path

KINDS = ("task", "net", "data", "project")


def main(argv: list[str]) -> dict[Path, str]:
    parser = Parser("new", __doc__)
    add = parser.add_argument
    add("kind", metavar="|".join(KINDS), choices=KINDS, help="what to make")
    add("name", metavar="NAME", help="in lowercase letters: my_net, leaf-disease")
    defaults = ", ".join(f"{kind} {name}" for kind, name in scaffold.DEFAULTS.items())
    add("--like", metavar="EXISTING", help=f"the one to copy (default: {defaults})")
    add("--author", metavar="AUTHOR", help="of a project: 'Name <email>' (default: git's user)")
    flags = parser.read(argv)
    name, ignored = (
        ("--like", flags.like) if flags.kind == "project" else ("--author", flags.author)
    )
    if ignored:
        raise InputError(f"{name}: has no effect with {flags.kind}; leave it out")
    if flags.kind == "project":
        author = make_project(ROOT, flags.name, flags.author)
        print(f"project    {flags.name} by {author}, one commit: git show --stat")
        print("follow     docs/how-to/follow-the-template.md, to merge later versions")
        return {}
    kind, name, like = flags.kind, flags.name, flags.like or scaffold.DEFAULTS[flags.kind]
    files = scaffold.copy_template(kind, name, like)
    for path in files:
        print(f"wrote      {display_path(path)}")
    print(f"\nIt is a copy of {like} and runs unchanged. Edit, in this order:\n")
    for number, (place, what) in enumerate(scaffold.list_edits(kind, files), 1):
        print(f"  {number:>2}  {place:<38}  {what}")
    words = name
    if kind != "task":
        words = (
            f"{scaffold.find_experiment(kind, scaffold.find_templates(kind)[like])} {kind}={name}"
        )
    print(f"\ntrain      python -m src.train {words}")
    test = display_path(scaffold.test_file(scaffold.FOLDERS[kind], name))
    print(f"test       python -m pytest {test}    (pip install -e '.[dev]' has pytest)")
    return files


if __name__ == "__main__":
    run_command(main)
