"""The pages in docs/: their commands run or compose, their links and paths exist."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from src.kindling.analysis import report
from src.kindling.config.compose import PARTS, ROOT, VALUES
from tests.conftest import LITTLE, train
from tests.written import IS_TEMPLATE, README, YOURS, commands, composes, mentioned, missing

DOCS = ROOT / "docs"
TEXTS = {
    page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8")
    for page in sorted(DOCS.rglob("*.md"))
}

LINK = re.compile(r"\]\(([^)#\s]+)")

# Blocks of Python that are parts of something, or take a quarter of an hour, and are read but not executed: page, and
# what they begin with.
PARTIAL: tuple[tuple[str, str], ...] = (
    (
        "how-to/fine-tune.md",
        "from src.kindling.config import instantiate\nfrom src.kindling.config.compose import compose\n",
    ),
)


@pytest.mark.skipif(not IS_TEMPLATE, reason="the README is a project's own")
def test_pages_are_linked() -> None:
    assert len(TEXTS) > 7
    linked = {(ROOT / link).resolve() for link in LINK.findall(README)}
    for name, text in TEXTS.items():
        linked |= {(DOCS / name).parent.joinpath(link).resolve() for link in LINK.findall(text)}
    assert [name for name in TEXTS if DOCS / name not in linked] == []


@pytest.mark.parametrize("name", TEXTS)
def test_page_has_one_title(name: str) -> None:
    lines = _without_code(TEXTS[name]).splitlines()
    assert lines[0].startswith("# ")
    assert sum(line.startswith("# ") for line in lines) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["how-to/add-a-net.md", "how-to/add-a-task.md", "how-to/add-data.md"]
)
def test_page_example_trains(
    name: str, repository: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """All that concerns the reader's own part, in order, in a copy of the repository."""
    shutil.copytree(
        ROOT / "tests", repository / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", repository)
    blocks = re.findall(r"^```python\n(.*?)^```", TEXTS[name], flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(
        r"^    python -m (.*(?:\b|_)my_(?:net|task|counts|digits|data)\b.*)$",
        TEXTS[name],
        flags=re.MULTILINE,
    )
    assert len(lines) >= 3
    for line in lines:
        for folder, module, cls in re.findall(r"src\.(\w+)\.(my_\w+)\.(\w+)", line):
            for block in blocks:
                if f"class {cls}(" in block:  # one that the page shows
                    with (repository / "src" / folder / f"{module}.py").open("a") as file:
                        file.write(block)
        done = command(
            "-m",
            *shlex.split(line, comments=True),
            *(LITTLE if line.startswith("src.train") else ()),
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", TEXTS)
def test_commands_compose(name: str) -> None:
    for command in [*commands(TEXTS[name]), *mentioned(TEXTS[name])]:
        mistake = f"$ python -m src.{command}" in TEXTS[name]  # shown with its message
        if not mistake and not YOURS.search(command):
            composes(command)


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_paths_exist(name: str) -> None:
    assert missing(TEXTS[name], (DOCS / name).parent) == []


@pytest.mark.parametrize("name", TEXTS)
def test_python_blocks_run(name: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", TEXTS[name], flags=re.MULTILINE | re.DOTALL)
    if blocks:
        train("digits")
    names: dict[str, object] = {}  # a block may go on with what the one before it made
    for block in blocks:
        if any(page == name and block.startswith(start) for page, start in PARTIAL):
            ast.parse(block)
        else:
            exec(compile(block, name, "exec"), names)


@pytest.mark.parametrize("name", TEXTS)
def test_yaml_blocks_are_configs(name: str) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", TEXTS[name], flags=re.MULTILINE | re.DOTALL):
        keys = {key.partition(".")[0] for key in yaml.safe_load(block)}
        assert keys <= {*PARTS, *VALUES, "defaults", "_target_"} or "_target_" in keys


@pytest.mark.parametrize("name", TEXTS)
def test_tables_are_rectangular(name: str) -> None:
    for table in re.findall(r"^\|.*\n\|[-:| ]+\|\n(?:\|.*\n?)+", TEXTS[name], flags=re.MULTILINE):
        cells = [re.sub(r"\\\||`[^`]*`", "", row).count("|") for row in table.splitlines()]
        assert len(set(cells)) == 1, table


# ---------------------------------------------------------------------------------------------------------------
# What single pages claim


def test_report_plots_are_explained() -> None:
    explained = re.findall(
        r"^\| `(\w+)` \|", TEXTS["how-to/read-the-report.md"], flags=re.MULTILINE
    )
    assert set(explained) >= set(report.ORDER)


def test_report_page_matches_template() -> None:
    page, template = TEXTS["how-to/read-the-report.md"], report.TEMPLATE.read_text(encoding="utf-8")
    for heading in ("Data", "Config", "Commands", "Environment"):
        assert f"- **{heading}**" in page
        assert f"<h2>{heading}</h2>" in template
    columns = re.findall(r"<th[^>]*>([^<]+)<", template.partition("</table>")[0])
    assert columns == ["metric", "test", "baseline", "validation"]
    assert [column for column in columns[1:] if f"\n| {column} | " not in page] == []
    files = re.findall(
        r"^\| `([\w./]+)` \|", page.partition("## Files with the numbers")[2], flags=re.MULTILINE
    )
    assert len(files) == 5
    assert [file for file in files if f"`{file}`" not in TEXTS["reference/run-directory.md"]] == []


def test_architecture_nouns_match_contributing() -> None:
    nouns = re.findall(
        r"^\| (\w+) \| .* \|$",
        TEXTS["explanation/architecture.md"].partition("## One diagram")[0],
        flags=re.MULTILINE,
    )
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"Seven nouns: {', '.join(nouns[1:])}." in told


def test_architecture_lists_packages_and_commands() -> None:
    section = (
        TEXTS["explanation/architecture.md"]
        .partition("## Packages and commands")[2]
        .partition("\n## ")[0]
    )
    table = "".join(line for line in section.splitlines() if line.startswith("| "))
    named = sorted(set(re.findall(r"`(\w+)`", table)))
    packages = [path.parent.name for path in (ROOT / "src" / "kindling").glob("*/__init__.py")]
    commands = [path.stem for path in (ROOT / "src").glob("*.py") if not path.stem.startswith("__")]
    assert named == sorted(packages + commands)


def test_agents_file_names_what_exists() -> None:
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    found = [*commands(text), *mentioned(text)]
    assert len(found) > 4
    for command in found:
        composes(command)
    assert missing(text, ROOT) == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert f"\n{target}:" in makefile, target
    named = re.findall(r"(?<=\s)(?:tests/[\w/]+\.py|[A-Z]+\.md)\b", text)
    assert len(named) > 5
    assert [file for file in named if not (ROOT / file).is_file()] == []


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
