"""Code of every command: parse its arguments, print its help, end its process.

A command is a thin main over a function that returns its result. This module imports no torch, so
that help and first errors appear at once.
"""

from __future__ import annotations

import argparse
import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from src.kindling.config.errors import InputError, did_you_mean, explain_typo
from src.kindling.config.habits import translate
from src.kindling.config.short_traceback import print_short

RUN = "a folder in logs/, a .ckpt file, 'latest' or '<config>/latest'"
EXACT = "in CSV, put no quote before text that a spreadsheet would run as a formula"
TRUSTED = "let the config of a RUN from outside logs/ run any code and read the environment"
# A shell's status of a process that wrote to a closed pipe: 128 + SIGPIPE.
CLOSED_PIPE = 141
# The beginning of a usage line; the console script sets another (src/__main__.py).
PROGRAM = os.environ.get("KINDLING_PROGRAM", "python -m src.")


class Parser(argparse.ArgumentParser):
    """argparse, with errors that name the nearest flag, and words and flags in any order.

    Args:
        verb: the command's name.
        doc: the command's docstring: a sentence, its usage (`python -m src.<verb> …`), and details.
        with_configs: whether the help lists experiments and groups.
    """

    def __init__(self, verb: str, doc: str | None, with_configs: bool = False) -> None:
        about, usage, *details = [*(doc or "").strip().split("\n\n"), ""]
        super().__init__(
            prog=f"{PROGRAM}{verb}",
            # With `python -OO` there is no docstring, and argparse writes the usage.
            usage=" ".join(usage.replace("python -m src.", PROGRAM).split()) or None,
            description="\n\n".join([about, *details]).strip(),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.with_configs = with_configs

    def add_run(self) -> None:
        """Add the word RUN, and the flag that trusts its config."""
        self.add_argument("run", metavar="RUN", help=RUN)
        self.add_argument("--trust", action="store_true", help=TRUSTED)

    def format_help(self) -> str:
        if self.with_configs:
            self.epilog = _configs_help()
        return super().format_help()

    def read(self, argv: list[str]) -> argparse.Namespace:
        """The parsed words and flags."""
        parsed, unknown = self.parse_known_intermixed_args(argv)
        if unknown:  # words after an unknown flag are its values
            words = [word for word in unknown if word.startswith("-")] or unknown
            raise InputError([self._describe_unknown(word, argv) for word in words])
        return parsed

    def _describe_unknown(self, word: str, argv: list[str]) -> str:
        if not word.startswith("-"):
            return f"{word}: not expected here ({self.usage_line()})"
        actions = [action for action in self._actions if action.help != argparse.SUPPRESS]
        flags = sorted(action.option_strings[-1] for action in actions if action.option_strings)
        name, equals, value = word.partition("=")
        following = argv[argv.index(word) + 1 :][:1]
        if not equals:
            value = following[0] if following and not following[0].startswith("-") else "…"
        if hint := translate(name, value):
            return f"{name}: no such flag{hint}"
        hint = did_you_mean(name, flags, cutoff=0.7)
        if not hint and (equals or "." in name):
            hint = f"; config values go without dashes: {name.lstrip('-')}={value}"
        elif not hint and self.with_configs:
            hint = "; what a config holds is set by key=value, such as trainer.max_epochs=5"
        return f"{name}: no such flag{hint} (this command has: {', '.join(flags)})"

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')} ({self.usage_line()})")

    def usage_line(self) -> str:
        return " ".join(self.format_usage().split())


def split_words(words: list[str]) -> tuple[str, list[str]]:
    """CONFIG (`digits` when there is none) and the `key=value` words."""
    if words and "=" not in words[0] and not words[0].startswith("~"):
        return words[0], words[1:]
    return "digits", words


def run_command(main: Callable[[list[str]], Any]) -> NoReturn:
    """Call a command's main and end the process; an `InputError` prints its lines."""
    try:
        status = _status_of(main)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _drop_closed_outputs():  # another pipe's, such as a worker's
            raise
        status = CLOSED_PIPE
    except Exception:
        atexit.register(_end_quickly, 1)  # after the traceback
        if sys.excepthook is sys.__excepthook__:
            sys.excepthook = print_short
        raise
    if "torch" not in sys.modules:
        sys.exit(status)
    _end_quickly(status)


def _end_quickly(status: int) -> NoReturn:
    """End the process without unloading torch and Lightning, which takes 1.7 s."""
    atexit.unregister(_end_quickly)
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    # They would outlive the SIGTERM that they get next, see runs/signals.py.
    if workers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or torch raises for each
        for worker in workers:
            worker.kill()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status_of(main: Callable[[list[str]], Any]) -> int:
    """Call a command's main, print the lines of an `InputError`, and return the exit status."""
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.stdout.flush()
        print("\n".join(error.lines), file=sys.stderr)
        return error.status
    except (AttributeError, NameError) as error:
        if not (line := explain_typo(error)):
            raise
        print(line, file=sys.stderr)
        return InputError.status
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich's, which has closed the output
            return CLOSED_PIPE
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except KeyboardInterrupt:  # outside a training, such as during the import of torch
        return 128 + signal.SIGINT
    return 0


def _drop_closed_outputs() -> bool:
    """Let closed outputs (`| head`) drop further text; return whether there is one."""
    closed = []
    # An unbuffered stdout has to write to notice; stderr is not to show an empty line.
    for stream, line in ((sys.stdout, "\n"), (sys.stderr, "")):
        try:
            print(line, end="", file=stream, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            closed.append(stream)
    return bool(closed)


def _configs_help() -> str:
    # Imported here: it takes longer than most of a server's start.
    from src.kindling.config.compose import CONFIGS, configs, first_comment, groups

    experiments = [f"  {name:<20} {first_comment(CONFIGS / f'{name}.yaml')}" for name in configs()]
    options = [f"  {group + '=':<20} {' | '.join(files)}" for group, files in groups().items()]
    lines = ["configs:", *experiments, ""]
    lines += ["groups and their options (configs/<group>/<option>.yaml):", *options, ""]
    lines += ["Any argument of a part can be set: net.dropout=0.1, task.optimizer.lr=3e-4,"]
    lines += [
        "net._target_=src.nets.mlp.MLP, trainer.max_epochs=5, seed=1, name=first, tags=[a,b]."
    ]
    return "\n".join(lines)
