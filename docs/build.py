"""Hooks of mkdocs: pages that each build generates, and links from pages to notebooks."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from src.kindling.config.compose import ROOT
from src.kindling.dev.completion import read_parser


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those of docs/."""
    from mkdocs.structure.files import File

    pages = {"reference/commands.md": commands_page(), "reference/config.md": config_page()}
    for generated in (api_pages(), *map(notebook_pages, ROOT.glob("notebooks/*.ipynb"))):
        pages |= generated
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to notebooks into links to their pages."""
    return re.sub(r"\]\(((?:\.\./)*)\.\./notebooks/(\w+)\.ipynb", r"](\1tutorials/\2.md", markdown)


def commands_page() -> str:
    """Describe each command: its usage, and a table of its arguments."""
    text = "# Commands\n\n`python -m src.<command> --help` prints the same in the terminal.\n"
    for name in sorted(path.stem for path in ROOT.glob("src/[!_]*.py")):
        parser = read_parser(name)
        text += f"\n## {name}\n\n    {parser.usage}\n\n{parser.description}\n\n"
        text += "| argument | meaning |\n|---|---|\n"
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and action.dest != "help":
                text += f"| `{_argument(action)}` | {_cell(action.help % vars(action))} |\n"
    return text


def _argument(action: argparse.Action) -> str:
    """Name an argument as a user types it: `--init RUN`."""
    value = action.metavar or "|".join(map(str, action.choices or [action.dest.upper()]))
    values = [value] if isinstance(value, str) else value
    return " ".join([*action.option_strings[-1:], *(values if action.nargs != 0 else ())])


def _cell(text: str) -> str:
    """Write a text, which may have Sphinx's roles and literals, into a cell of a table."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def config_page() -> str:
    """Describe each key of a config, and the arguments of each class that one may name."""
    from src.kindling.dev.schema import config_schema

    schema = config_schema()
    text = "# Config keys\n\nKeys of `configs/*.yaml`, then arguments of the classes they name.\n"
    text += f"\n## Top-level keys\n\n{_keys_table(schema)}"
    for path, definition in sorted(schema["definitions"].items()):
        if path.startswith("src.") or path == "lightning.pytorch.Trainer":
            text += f"\n## {path}\n\n{definition['description']}\n\n{_keys_table(definition)}"
    return text


def _keys_table(schema: dict[str, Any]) -> str:
    text = "| key | type | default | meaning |\n|---|---|---|---|\n"
    for key, value in schema["properties"].items():
        if key not in ("_target_", "_partial_"):
            default = f"`{json.dumps(value['default'])}`" if "default" in value else ""
            cells = [f"`{key}`", _type(value), default, value.get("description", "")]
            text += f"| {' | '.join(map(_cell, cells))} |\n"
    return text if text.count("\n") > 2 else "No arguments.\n"


def _type(schema: dict[str, Any]) -> str:
    """Name the type of a value: `integer or null`."""
    if "anyOf" in schema:
        options = dict.fromkeys(map(_type, schema["anyOf"]))
        return " or ".join(option for option in options if option != "reference")
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].replace("_or_", " or ")
    if "const" in schema or len(schema.get("enum", range(99))) < 20:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if isinstance(schema.get("items"), dict):
        return f"list of {_type(schema['items'])}"
    kind = schema.get("type", "string" if "enum" in schema else "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def api_pages() -> dict[str, str]:
    """List what each package of the engine exports, for mkdocstrings to describe."""
    pages = {}
    for init in sorted(ROOT.glob("src/kindling/*/__init__.py")):
        package, text = f"src.kindling.{init.parent.name}", init.read_text(encoding="utf-8")
        if names := sorted(re.findall(r"^ *from .+ import (\w+) as \1$", text, re.M)):
            about = text.split('"""')[1]
            entries = "".join(f"\n::: {package}.{name}\n" for name in names)
            pages[f"reference/api/{init.parent.name}.md"] = f"# {package}\n\n{about}\n{entries}"
    return pages


def notebook_pages(notebook: Path) -> dict[str, str | bytes]:
    """Convert an executed notebook into a page and its images."""
    from latex2mathml.converter import convert
    from nbconvert import MarkdownExporter

    folder = {"output_files_dir": notebook.stem}
    page, resources = MarkdownExporter().from_filename(execute(notebook), folder)
    page = re.sub(r"(?<=\]\()\.\./docs/", "../", page)
    page = re.sub(r"`(\d\d_\w+)\.ipynb`", r"[\1](\1.md)", page)
    page = re.sub(r"(?<!\S)\$([^$\n]+)\$", lambda formula: convert(formula[1]), page)
    pages = {f"{notebook.stem}.md": page, **resources["outputs"]}
    return {f"tutorials/{name}": content for name, content in pages.items()}


def execute(notebook: Path) -> str:
    """Execute a notebook in a copy of the repository, unless an earlier build did; its file."""
    used = [notebook, *sorted(ROOT.glob("src/**/*.py")), *sorted(ROOT.glob("configs/**/*.yaml"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in used)).hexdigest()
    executed = ROOT / ".cache" / "notebooks" / f"{notebook.stem}-{digest[:16]}.ipynb"
    if not executed.exists():
        with tempfile.TemporaryDirectory() as copy:
            content = execute_in(Path(copy), notebook)
        executed.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(content, executed)
    return str(executed)


def execute_in(copy: Path, notebook: Path) -> Any:
    """Execute a notebook in a folder that becomes a copy of the repository."""
    for folder in ("src", "configs", "notebooks", "docs"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copy(ROOT / "pyproject.toml", copy)  # an export records the version
    content = nbformat.read(notebook, 4)
    # The time is for a kernel that hangs: a cell takes some seconds.
    client = NotebookClient(
        content,
        timeout=600,
        resources={"metadata": {"path": str(copy / "notebooks")}},
        extra_arguments=["--log-level=40"],
    )
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("KINDLING_RUN", None)
    client.execute(env=environment)
    return content
