"""Serve a run's model over HTTP, with a page to try it, for programs and for people.

    python -m src.serve RUN|MODEL.onnx [--port 8000] [--host 127.0.0.1] [--api-key-env NAME]

A run that was not exported yet is exported first. The process that answers imports no torch; when it dies, another
takes its place, and what waits to be accepted waits for that one.
"""

from __future__ import annotations

import os
from dataclasses import fields
from importlib.util import find_spec

from src.kindling.config.command import Parser, run_command
from src.kindling.config.errors import InputError
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.server import (
    NEEDED,
    Watch,
    _wrong_limits,
    _wrong_port,
    exported,
    listen,
    read_key,
    work,
)


def main(argv: list[str]) -> int:
    parser = Parser("serve", "RUN|MODEL.onnx [--port N] [--host ADDRESS] [--api-key-env NAME] [limits]",
                    "Serve a run's model: a page at /, POST /predict, /docs, /metrics.")  # fmt: skip
    parser.add_argument("model", metavar="RUN|MODEL.onnx", help="a folder in logs/, 'latest', '<config>/latest', or a file "
                        "that src.export wrote (model.int8.onnx, say)")  # fmt: skip
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="8000 when left out; 0 takes any free one")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="this machine alone when left out; any other "
                        "needs a key")  # fmt: skip
    parser.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the key, which all paths "
                        "but /, /docs and /health then need")  # fmt: skip
    for one in fields(Limits):
        about = f"{one.metadata['about']}; {one.default:,} when left out"
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default, help=about,
                            metavar=one.metadata["unit"])  # fmt: skip
    flags = parser.read(argv)
    given = {one.name: getattr(flags, one.name) for one in fields(Limits)}
    if lines := [*_wrong_port(flags.port), *_wrong_limits(given)]:
        raise InputError(lines)
    limits = Limits(**given)
    if missing := sorted({name for module, name in NEEDED.items() if find_spec(module) is None}):
        raise InputError(f"serve needs {', '.join(missing)}; install the extra: pip install -e '.[serve]'")
    key = read_key(flags.api_key_env)
    with listen(flags.host, flags.port, key) as where:
        path = exported(flags.model)
        host, port = where.getsockname()[:2]
        print(f"serving    {path}\npage       http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
        if not hasattr(os, "fork"):  # Windows: one process, which nobody replaces
            work(path, where, limits, key)
            return 0
        if status := Watch(path, where, limits, key).run():
            raise SystemExit(status)
    return 0


if __name__ == "__main__":
    run_command(main)
