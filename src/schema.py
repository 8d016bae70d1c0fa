"""Write JSON schemas of the files in configs/, for completion and checks in an editor.

python -m src.schema
"""

from __future__ import annotations

from pathlib import Path

from src.kindling.config.command import Parser, run_command
from src.kindling.runs.files import display_path


def main(argv: list[str]) -> list[Path]:
    Parser("schema", __doc__).read(argv)

    from src.kindling.dev.schema import write_schemas

    paths = write_schemas()
    names = ", ".join(path.name for path in paths)
    print(f"wrote      {display_path(paths[0].parent)}: {names}")
    return paths


if __name__ == "__main__":
    run_command(main)
