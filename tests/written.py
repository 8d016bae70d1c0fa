"""What a page or a notebook tells its reader to type, and whether it is so: commands, links, paths, blocks of code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from src import parts
from src.command import split_words
from src.config import ROOT, compose, configs

# What a reader is to write: it need not be there.
YOURS = re.compile(r"\bmine\b|\bmy_\w+")
# Paths that begin so are the repository's own.
OWN = r"(?:src|configs|docs|notebooks|tests)/[\w./-]*\w"


def commands(text: str) -> Iterator[str]:
    """The words after `-m src.`: `train digits seed=1`; of lines of code, without their comments."""
    fenced = re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(
        r"^    .*$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE
    )
    for line in "\n".join([*fenced, *indented]).splitlines():
        if found := re.search(r"(?:python|torchrun .*|srun .*) -m src\.(.*?)\s*(?:\s#.*|[\"&]+)?$", line):
            yield found[1]


def mentioned(text: str) -> Iterator[str]:
    """The commands within sentences and tables: `python -m src.train digits`."""
    yield from re.findall(r"`python -m src\.([^`]+)`", text)


def composes(command: str) -> None:
    """Compose and check the config of a command that isn't run."""
    verb, *words = shlex.split(command)
    assert (ROOT / "src" / f"{verb}.py").exists(), verb
    plain = list[str]()
    flags = [i for i, word in enumerate(words) if word.startswith("--")]
    for i, word in enumerate(words):
        if i not in flags and (i - 1 not in flags or words[i - 1] in LONE):
            plain.append(word)
    if verb in ("train", "tune", "crossval", "look", "benchmark") and "--resume" not in words:
        name, changes = split_words(plain)
        parts.check(compose(name, [word for word in changes if "=" in word]))


LONE = ("--override", "--no-test", "--no-pictures", "--retry", "--int8")  # flags without a value


def missing(text: str, folder: Path) -> list[str]:
    """Links that lead nowhere from `folder`, and paths of the repository that aren't there."""
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    named = re.findall(rf"`({OWN})/?`", text)
    wrong = [link for link in links if not (folder / link.partition("#")[0]).exists()]
    wrong += [path for path in named if not (ROOT / path).exists()]
    wrong += [f"{name}.yaml" for name in re.findall(r"`configs/(\w+)\.yaml`", text) if name not in configs()]
    return [path for path in wrong if not YOURS.search(path)]
