"""The documentation site: its navigation and its generated pages; `make docs` builds it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from src.kindling.config.compose import PARTS, ROOT, VALUES
from tests.conftest import LITTLE, call
from tests.written import known_flags

DOCS = ROOT / "docs"
COMMANDS = sorted(path.stem for path in (ROOT / "src").glob("[!_]*.py"))


@pytest.fixture(scope="module")
def build() -> SimpleNamespace:
    """docs/build.py, which is in no package."""
    return SimpleNamespace(**runpy.run_path(str(DOCS / "build.py")))


def pages_of(nav: Any) -> list[str]:
    """The files of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [
        page
        for entry in nav
        for page in pages_of(entry.values() if isinstance(entry, dict) else entry)
    ]


def test_navigation_lists_all_pages(build: SimpleNamespace) -> None:
    stored = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    notebooks = [f"tutorials/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")]
    generated = ["reference/commands.md", "reference/config.md", *build.api_pages(), *notebooks]
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(pages_of(yaml.safe_load(text)["nav"])) == sorted([*stored, *generated])


def test_commands_page_lists_flags(build: SimpleNamespace) -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", build.commands_page(), re.M | re.S))
    assert list(sections) == COMMANDS
    for command in COMMANDS:
        listed = set(re.findall(r"^\| `(--[\w-]+)", sections[command], re.M))
        hidden = known_flags(command) - listed - {"-h", "--help"}
        if command == "train":  # those of a study are listed for src.tune
            hidden -= known_flags("tune") | {"--member"}
        assert hidden == set(), command


def test_config_page_lists_keys(build: SimpleNamespace) -> None:
    page = build.config_page()
    keys = page.partition("## Top-level keys")[2].partition("\n## ")[0]
    assert {*PARTS, *VALUES} <= set(re.findall(r"^\| `(\w+)` \|", keys, re.M))
    digits = page.partition("## src.data.digits.Digits")[2].partition("\n## ")[0]
    assert re.search(r"^\| `batch_size` \| integer \| `64` \| \w", digits, re.M)
    rows = re.findall(r"^\|.*", page, re.M)
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {6}


def test_api_pages_list_exports(build: SimpleNamespace) -> None:
    pages = build.api_pages()
    assert "\n::: src.kindling.data.DataModule\n" in pages["reference/api/data.md"]
    assert "\n::: src.kindling.training.load_run\n" in pages["reference/api/training.md"]


def test_notebook_links_lead_to_tutorials(build: SimpleNamespace) -> None:
    for up in ("", "../"):
        text = f"[one]({up}../notebooks/01_workflow.ipynb#a)"
        assert build.on_page_markdown(text) == f"[one]({up}tutorials/01_workflow.md#a)"


@pytest.mark.plots
def test_quickstart_output_and_run_files(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines of the page, but for their numbers, and the files that the reference lists."""
    monkeypatch.chdir(logs.parent)
    call("train", "digits", *LITTLE)
    printed = [_without_numbers(line) for line in capsys.readouterr().out.splitlines()]
    (shown,) = re.findall(r"^```text\n(.*?)^```", (DOCS / "index.md").read_text(), re.M | re.S)
    lines = [_without_numbers(line).rstrip(" …") for line in shown.splitlines()]
    assert [line for line in lines if not any(p.startswith(line) for p in printed)] == []
    page = (DOCS / "reference" / "run-directory.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([^`]+)`", page.partition("## Read them")[0], re.M)
    (run,) = logs.glob("digits/*")
    files = {path for path in run.rglob("[!.]*") if path.is_file()}
    found = {pattern: set(run.glob(pattern)) for pattern in listed}
    assert files - set().union(*found.values()) == set()
    # Changes are there where the repository has some; three steps save the last state once.
    missing = {pattern for pattern, paths in found.items() if not paths}
    assert missing <= {"diff.patch", "checkpoints/previous.ckpt"}


def _without_numbers(line: str) -> str:
    line = re.sub(r"\bthreads\b", "thread", line)
    return re.sub(r" +", " ", re.sub(r"\d[\d.,:_-]*", "#", line))


@pytest.mark.long
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "http" not in re.sub(
        r"<a [^>]*>", "", (tmp_path / "index.html").read_text(encoding="utf-8")
    )
