"""What a page or a notebook tells its reader to type, and whether it is so: commands, links, paths, blocks of code."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from src.kindling.config import instantiate
from src.kindling.config.command import split_words
from src.kindling.config.compose import ROOT, compose
from src.kindling.dev.completion import read_parser

README = (ROOT / "README.md").read_text(encoding="utf-8")
# Else a project made from the template, whose README and changelog are its own.
IS_TEMPLATE = '\nname = "kindling"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
# What a reader is to write: it need not be there.
YOURS = re.compile(r"\bmine\b|\bmy_\w+")
# Flags without a value.
LONE = ("--override", "--no-test", "--no-plots", "--retry", "--int8", "--show", "--dry-run")
# Paths that begin so are the repository's own.
OWN = r"(?:src|configs|docs|notebooks|tests)/[\w./-]*\w"


def commands(text: str) -> Iterator[str]:
    """The words after `-m src.`: `train digits seed=1`; of lines of code, without their comments."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    fenced = [block for language, block in blocks if language in ("", "bash", "sh", "console")]
    indented = re.findall(
        r"^    .*$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    for line in "\n".join([*fenced, *indented]).splitlines():
        command = r"(?:(?:python|torchrun .*) -m src\.|^ *kindling )(.*?)(?:\s+#.*|\s+>.*)?$"
        if found := re.search(command, line):
            # Within quotes, such as those of an ssh, it ends with them.
            yield found[1].partition('"')[0] if found[1].count('"') % 2 else found[1]


def mentioned(text: str) -> Iterator[str]:
    """The commands within sentences and tables: `python -m src.train digits`."""
    yield from (
        command
        for command in re.findall(r"`python -m src\.([^`]+)`", here(text))
        if "<" not in command
    )


def here(text: str) -> str:
    """Without what tables say of elsewhere: the first cells where the last one is headed 'here'."""

    def second(table: re.Match[str]) -> str:
        return "".join("|" + row.split("|", 2)[2] for row in table[0].splitlines(keepends=True))

    return re.sub(r"^\|[^|\n]*\| here \|\n(?:\|.*\n)+", second, text, flags=re.MULTILINE)


def composes(command: str) -> None:
    """Check the flags of a command, and compose and check its config."""
    verb, *words = shlex.split(command)
    assert (ROOT / "src" / f"{verb}.py").exists(), verb
    flags = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
    assert flags <= known_flags(verb), f"{command}: no such flag"
    valued = [before.startswith("--") and before not in LONE for before in ["", *words]]
    plain = [
        word
        for word, value in zip(words, valued, strict=False)
        if not value and not word.startswith("--")
    ]
    if verb in ("train", "tune", "crossval", "look", "benchmark") and "--resume" not in words:
        name, changes = split_words(plain)
        instantiate.check(compose(name, [word for word in changes if "=" in word]))


@functools.cache
def known_flags(verb: str) -> set[str]:
    """The flags that a command has, hidden ones too."""
    actions = read_parser(verb)._actions
    return {flag for action in actions for flag in action.option_strings}


def missing(text: str, folder: Path) -> list[str]:
    """Links that lead nowhere from `folder`, and paths of the repository that aren't there."""
    text = here(text)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    named = re.findall(rf"`({OWN})/?`", text)
    wrong = [link for link in links if not (folder / link.partition("#")[0]).exists()]
    wrong += [path for path in named if not (ROOT / path).exists()]
    return [path for path in wrong if not YOURS.search(path)]
