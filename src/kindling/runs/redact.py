"""Redact secrets in the files of a run: its command line, its git diff, its config."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
# A key is secret when one of these is a whole word of it.
KEY = (
    r"(?P<key>[\w.-]*?(?<![a-z])(?:(?-i:TOKEN)|token(?![_-]?[a-z])|secret|password|passwd|pwd"
    r"|passphrase|credentials?|authorization|(?:api|access|private|secret)[_-]?key)(?![a-z])[\w.-]*)"
)
# 'key=value with blanks'; key="value", "key": "value", key: str = "value"; --key value; key=value;
# key: value to the end. Python code has secrets in quotes only: there the last three are left out.
PAIRS = [
    re.compile(pattern.replace("KEY", KEY), re.IGNORECASE | re.MULTILINE)
    for pattern in (
        r"(?P<lead>(?P<quote>[\"'])KEY=)(?P<value>.*?)(?=(?P=quote))",
        r"(?P<lead>(?<![\w.-])KEY[\"'\\\]]*\s*(?::[^=:\n\"']*=|[:=])\s*(?P<quote>\\?[\"']))"
        r"(?P<value>.*?)(?=(?P=quote))",
        r"(?P<lead>(?<![\w.-])--KEY[\"']?,?\s+(?P<quote>[\"'])?)"
        r"(?P<value>(?(quote).*?(?=(?P=quote))|[^\s-]\S*))",
        r"(?P<lead>%env[ \t]+KEY[ \t]+)(?P<value>[^\s\"'\\=][^\s\"'\\]*)",
        r"(?P<lead>(?<![\w.-])KEY[ \t]*=[ \t]*)(?P<value>[^\s\"'=]\S*)",
        r"(?P<lead>(?<![\w.-])KEY:[ \t]*)"
        r"(?P<value>\$\{[^}]*\}|[^\s\"'=].*?(?=,\s|\s#|[}\])]*\s*$))",
    )
]
# Not secret: a reference without a default, an f-string's field, a null value, a redacted one.
NOTHING = re.compile(
    r"\s*|\$\{[^,]*\}|\$\w+|\{[\w.]*\}|\*{3}.*|true|false|null|none", re.IGNORECASE
)
SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=Bearer )[\w.~+/-]{8,}=*"
    r"|(?<![^\W_])(?:(?:gh[pousr]|hf)_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|sk-(?=[\w-]*\d)[\w-]{16,}|xox[a-z]-[\w-]{8,}"
    r"|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{35}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)",
    re.DOTALL,
)
USER = re.compile(r"(?<=://)(?!git@|[^\s/@,]*\$\{[^\s/@,]*\}@)[^\s/?#\"'<>]+(?=@)")


def redact(text: str) -> str:
    """A command line, a git diff or another text with `***` in the place of each secret.

    Join a command line by `shlex.join`: without its quotes, a value ends at its first blank.
    """
    text = SHAPES.sub(HIDDEN, USER.sub(HIDDEN, text))
    redacted_files = []
    for file in re.split(r"^(?=diff --git )", text, flags=re.MULTILINE):
        is_code = re.match(r"diff --git .*\.pyi?$", file, re.MULTILINE)
        for pattern in PAIRS[:3] if is_code else PAIRS:
            file = pattern.sub(lambda m: m["lead"] + _value(m["key"], m["value"]), file)
        redacted_files.append(file)
    return "".join(redacted_files)


def redacted(values: Any, key: str = "") -> Any:
    """Return nested plain values with `***` for each secret and all values of a secret key."""
    if isinstance(values, dict):
        inner = {name: "" if name == "_target_" else f"{key}.{name}" for name in values}
        return {name: redacted(value, inner[name]) for name, value in values.items()}
    if isinstance(values, list | tuple):
        found = [redacted(value, key) for value in values]
        return tuple(found) if isinstance(values, tuple) else found
    if re.search(KEY, key, re.IGNORECASE) and _value(key, str(values)) == HIDDEN:
        return HIDDEN
    return redact(values) if isinstance(values, str) else values


def _value(key: str, value: str) -> str:
    # max_token=512
    number = re.fullmatch(r"-?\d{1,6}(\.\d+)?(e-?\d+)?", value) and "token" in key.lower()
    special = re.search(r"(bos|eos|pad|unk|cls|sep|mask|class)_token$", key, re.IGNORECASE)
    return value if number or special or NOTHING.fullmatch(value) else HIDDEN
