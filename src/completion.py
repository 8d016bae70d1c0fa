"""Print what a shell needs to complete commands, configs, keys, flags and runs.

kindling completion bash >> ~/.bashrc
"""

from __future__ import annotations

from src.kindling.config.command import Parser, run_command
from src.kindling.dev import completion

SHELLS = ("bash", "zsh", "fish")
ABOUT = """Print what a shell needs to complete commands, configs, keys, flags and runs:

  kindling completion bash >> ~/.bashrc
  kindling completion zsh >> ~/.zshrc
  kindling completion fish > ~/.config/fish/conf.d/kindling.fish"""


def main(argv: list[str]) -> str:
    parser = Parser("completion", "bash|zsh|fish", ABOUT)
    parser.add_argument("shell", metavar="bash|zsh|fish", choices=SHELLS, help="your shell")
    script = completion.read_script(parser.read(argv).shell)
    print(script)
    return script


if __name__ == "__main__":
    run_command(main)
