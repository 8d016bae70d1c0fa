"""Print what a shell needs to complete commands, configs, keys, flags and runs.

    python -m src.completion bash|zsh|fish

Install it once, for your shell:

    kindling completion bash >> ~/.bashrc
    kindling completion zsh >> ~/.zshrc
    kindling completion fish > ~/.config/fish/conf.d/kindling.fish
"""

from __future__ import annotations

from src.kindling.config.command import Parser, run_command
from src.kindling.dev import completion

SHELLS = ("bash", "zsh", "fish")


def main(argv: list[str]) -> str:
    parser = Parser("completion", __doc__)
    parser.add_argument("shell", metavar="bash|zsh|fish", choices=SHELLS, help="your shell")
    script = completion.read_script(parser.read(argv).shell)
    print(script)
    return script


if __name__ == "__main__":
    run_command(main)
