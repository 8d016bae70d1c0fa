"""Serve a run's model over HTTP, with a page to try it, for programs and for people.

    python -m src.serve RUN|MODEL.onnx [--port N] [--host ADDRESS] [--api-key-env NAME] [limits]

A run without an export is exported first. The server imports no torch. When the process that
responds ends, another takes its place.
"""

from __future__ import annotations

from dataclasses import fields

from src.kindling.config.command import Parser, run_command
from src.kindling.deploy.serving import server
from src.kindling.deploy.serving.limits import Limits

MODEL = "a folder in logs/, 'latest', '<config>/latest', or a file that src.export wrote"
PORT = "default 8000; 0 takes a free one"
HOST = "default 127.0.0.1, this machine only; any other needs a key"
HOSTS = (
    "comma-separated names by which clients reach the server; default: this machine's own, or any"
)
KEY = "environment variable with a key, required for all paths but /, /docs and /health"


def create_parser() -> Parser:
    parser = Parser("serve", __doc__)
    parser.add_argument("model", metavar="RUN|MODEL.onnx", help=MODEL)
    parser.add_argument("--port", type=int, default=8000, metavar="N", help=PORT)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=HOST)
    parser.add_argument("--api-key-env", metavar="NAME", help=KEY)
    parser.add_argument("--allowed-hosts", default="", metavar="NAMES", help=HOSTS)
    for limit in fields(Limits):
        flag, unit = f"--{limit.name.replace('_', '-')}", limit.metadata["unit"]
        about = f"{limit.metadata['help']}; default {limit.default:,}"
        kind = type(limit.default)
        parser.add_argument(flag, type=kind, default=limit.default, metavar=unit, help=about)
    return parser


def main(argv: list[str]) -> None:
    flags = create_parser().read(argv)
    limits = Limits(**{limit.name: getattr(flags, limit.name) for limit in fields(Limits)})
    server.check_libraries()
    key = server.read_key(flags.api_key_env)
    listener, access = server.listen(flags.host, flags.port, key, flags.allowed_hosts)
    with listener:
        path = server.find_model(flags.model)
        host, port = listener.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        lines = f"serving    {path}\npage       http://{name}:{port}/"
        if status := server.supervise(path, listener, limits, access, lines):
            raise SystemExit(status)


if __name__ == "__main__":
    run_command(main)
