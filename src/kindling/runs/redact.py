"""Takes secrets out of what a run stores: its command line, its git diff, the values of its config."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
# A key is secret when one of these is a whole word of it.
KEY = (r"(?P<key>[\w.-]*?(?<![a-z])(?:(?-i:TOKEN)|token(?![_-]?[a-z])|secret|password|passwd|pwd|passphrase|"
       r"credentials?|authorization|(?:api|access|private|secret)[_-]?key)(?![a-z])[\w.-]*)")  # fmt: skip
# 'key=value with blanks'; key="value", "key": "value", key: str = "value"; --key value; key=value; key: value to the end.
# In Python code a secret stands in quotes, and what stands without is a name: there the last two are left out.
PAIRS = [re.compile(pattern.replace("KEY", KEY), re.IGNORECASE | re.MULTILINE) for pattern in (
    r"(?P<lead>(?P<quote>[\"'])KEY=)(?P<value>.*?)(?=(?P=quote))",
    r"(?P<lead>(?<![\w.-])KEY[\"'\\\]]*\s*(?::[^=:\n\"']*=|[:=])\s*(?P<quote>\\?[\"']))(?P<value>.*?)(?=(?P=quote))",
    r"(?P<lead>(?<![\w.-])--KEY[\"']?,?\s+(?P<quote>[\"'])?)(?P<value>(?(quote).*?(?=(?P=quote))|[^\s-]\S*))",
    r"(?P<lead>(?<![\w.-])KEY[ \t]*=[ \t]*)(?P<value>[^\s\"'=]\S*)",
    r"(?P<lead>(?<![\w.-])KEY:[ \t]*)(?P<value>\$\{[^}]*\}|[^\s\"'=].*?(?=,\s|\s#|[}\])]*\s*$))",
)]  # fmt: skip
# What hides nothing: a reference without a default, an f-string's field, a word for nothing, what is hidden already.
NOTHING = re.compile(r"\s*|\$\{[^,]*\}|\$\w+|\{[\w.]*\}|\*{3}.*|true|false|null|none", re.IGNORECASE)
SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)|(?<=Bearer )[\w.~+/-]{8,}=*|(?<![^\W_])(?:"
    r"(?:gh[pousr]|hf)_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-(?=[\w-]*\d)[\w-]{16,}|xox[a-z]-[\w-]{8,}"
    r"|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{35}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)", re.DOTALL)  # fmt: skip
USER = re.compile(r"(?<=://)(?!git@|[^\s/@,]*\$\{[^\s/@,]*\}@)[^\s/?#\"'<>]+(?=@)")


def redact(text: str) -> str:
    """A command line, a git diff or another text with `***` in the place of each secret.

    Join a command line by `shlex.join`: where its quotes are lost, a value is taken to end at its first blank.
    """
    files = re.split(r"^(?=diff --git )", SHAPES.sub(HIDDEN, USER.sub(HIDDEN, text)), flags=re.MULTILINE)
    for i, file in enumerate(files):
        for pattern in PAIRS[:3] if re.match(r"diff --git .*\.pyi?$", file, re.MULTILINE) else PAIRS:
            files[i] = pattern.sub(lambda pair: pair["lead"] + _value(pair["key"], pair["value"]), files[i])
    return "".join(files)


def redacted(values: Any, key: str = "") -> Any:
    """Nested plain values with `***` in the place of each secret; what lies under a secret key is secret."""
    if isinstance(values, dict):
        return {name: redacted(value, "" if name == "_target_" else f"{key}.{name}") for name, value in values.items()}
    if isinstance(values, list | tuple):
        found = [redacted(value, key) for value in values]
        return tuple(found) if isinstance(values, tuple) else found
    if re.search(KEY, key, re.IGNORECASE) and _value(key, str(values)) == HIDDEN:
        return HIDDEN
    return redact(values) if isinstance(values, str) else values


def _value(key: str, value: str) -> str:
    counted = "token" in key.lower() and re.fullmatch(r"-?\d{1,6}(\.\d+)?(e-?\d+)?", value)  # max_token=512
    placed = re.search(r"(bos|eos|pad|unk|cls|sep|mask|class)_token$", key, re.IGNORECASE)
    return value if counted or placed or NOTHING.fullmatch(value) else HIDDEN
