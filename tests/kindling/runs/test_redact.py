"""What is stored of a run holds no secret, and everything else as it was."""

from __future__ import annotations

import shlex

import pytest

from src.kindling.runs.redact import redact, redacted


@pytest.mark.parametrize(
    "text",
    [
        "python -m src.train digits net.width=64 tags=[a,b] 'name=my run' data.root=~/cards",
        "max_tokens=512",
        "net.num_token=64",
        "net.token_dropout=0.1",
        "net.token_mixer=attention",
        "pad_token_id=0",
        "net.cls_token=learned",
        "bos_token: <s>",
        "tokenizer=bert",
        "num_keys=3",
        "keyboard=us",
        "monkey=banana",
        "data.secretary=x",
        "sha256=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "commit 7cfa5cc0dbd1f1d0a1c1f3f0b9a5e6d7c8b9a0f1",
        "split_hash: 7cfa5cc0dbd1f1d0a1c1f3f0b9a5e6d7c8b9a0f1",
        "logger.hub.token=${oc.env:HF_TOKEN}",
        "token: ${oc.env:HF_TOKEN}",
        '"api_key": "${oc.env:KEY}"',
        "HF_TOKEN=$HF_TOKEN",
        "token=null",
        "password: ",
        "api_key=",
        "postgresql://host/studies",
        "postgresql://${oc.env:DB_USER}:${oc.env:DB_PASSWORD}@host/studies",
        "ssh://git@github.com/x/y",
        "https://example.com/a?mail=a@b",
        "disk-abcdefghijk1mnopqrstu",
        "hf_transfer",
    ],
)
def test_redact_keeps_plain_text(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a.api_key=abc x=1", "a.api_key=*** x=1"),
        (
            "logger.wandb.api_key=7cfa5cc0dbd1f1d0a1c1f3f0b9a5e6d7c8b9a0f1",
            "logger.wandb.api_key=***",
        ),
        ("HF_TOKEN=hunter2 python", "HF_TOKEN=*** python"),
        ("TOKEN_OF_ME=hunter2", "TOKEN_OF_ME=***"),
        ("db.passwd=x;y&z,w", "db.passwd=***"),
        ("password=1234", "password=***"),
        ("token=12345678", "token=***"),
        ("aws_secret_access_key=abc", "aws_secret_access_key=***"),
        ("token=${oc.env:HF_TOKEN,hunter2}", "token=***"),
        ("--token abc --x y", "--token *** --x y"),
        ("%env HF_TOKEN abc", "%env HF_TOKEN ***"),
        ("--api-key=abc", "--api-key=***"),
        ("--api-key 'a b' c", "--api-key '***' c"),
        ('"--token", "abc"', '"--token", "***"'),
        ("client_secret: a b # c", "client_secret: *** # c"),
        ('HF_TOKEN: "a b"', 'HF_TOKEN: "***"'),
        ('{"token": "a b", "x": 1}', '{"token": "***", "x": 1}'),
        (r"{\"token\": \"a b\"}", r"{\"token\": \"***\"}"),
        ("{_target_: X, api_key: abc}", "{_target_: X, api_key: ***}"),
        ("{private_key: abc, project: x}", "{private_key: ***, project: x}"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("curl -H 'X: Bearer abcdefghij'", "curl -H 'X: Bearer ***'"),
        ("https://host/p?token=abc&x=1", "https://host/p?token=***"),
        ("postgresql://user:pw@host/db", "postgresql://***@host/db"),
        ("postgresql://user:p@w@host/db", "postgresql://***@host/db"),
        ("postgresql://${oc.env:DB_USER}:hunter2@host/db", "postgresql://***@host/db"),
        ("https://hunter2@github.com/x", "https://***@github.com/x"),
        ("x ghp_abcdefghijklmnopqrstuvwxyz0123456789 y", "x *** y"),
        ("x hf_abcdefghijklmnopqrstuvwxyz012345 y", "x *** y"),
        ("x sk-proj-abc123def456ghi789 y", "x *** y"),
        ("x AKIAIOSFODNN7EXAMPLE y", "x *** y"),
        ("x xoxb-123456789-abc y", "x *** y"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nx", "***\nx"),
    ],
)
def test_secrets_are_hidden(text: str, left: str) -> None:
    assert redact(text) == left
    assert redact(left) == left


def test_quotes_of_a_command_line_hold_a_value_together() -> None:
    argv = [
        "python",
        "-m",
        "src.train",
        "digits",
        "logger.x.password=a b c",
        "name=my run",
        "--secret",
        "d e",
    ]
    assert redact(shlex.join(argv)) == (
        "python -m src.train digits 'logger.x.password=***' 'name=my run' --secret '***'"
    )


def test_redact_diff() -> None:
    code = """diff --git a/src/hub.py b/src/hub.py
+++ b/src/hub.py
+    token = self.tokens[i]
+def login(token: str, password: str | None = None) -> None:
+    login(token=token)
+    if token == "x":
+    print(f"token={token}")
"""
    assert redact(code) == code
    values = """diff --git a/.env b/.env
+HF_TOKEN=hunter2
-  api_key: hunter2
   password = hunter2
"""
    literals = """diff --git a/src/x.py b/src/x.py
+API_KEY = "hunter2"
-    password: str = 'hunter2'
     os.environ["HF_TOKEN"] = "hunter2"
+    login(token="hunter2", name="x")
"""
    assert "hunter2" not in redact(code + values + literals)
    assert redact(code + values + literals).splitlines() == [
        *code.splitlines(),
        *values.replace("hunter2", "***").splitlines(),
        *literals.replace("hunter2", "***").splitlines(),
    ]


def test_nested_values() -> None:
    values = {
        "logger": {
            "wandb": {
                "_target_": "src.x.Y",
                "api_key": "hunter2",
                "project": "digits",
                "offline": True,
            },
            "hub": {
                "token": "${oc.env:HF_TOKEN}",
                "password": 1234,
                "url": "postgresql://u:p@host",
            },
        },
        "net": {
            "max_tokens": 512,
            "token": 3,
            "token_dropout": 0.1,
            "width": 64,
            "pad_token_id": 0,
        },
        "credentials": {"_target_": "src.x.Z", "user": "me", "none": None, "flag": False},
        "tags": ["a", {"secret": "hunter2"}, "--token hunter2"],
        "callbacks.hub.api_key": "hunter2",
    }
    before = repr(values)
    assert redacted(values) == {
        "logger": {
            "wandb": {
                "_target_": "src.x.Y",
                "api_key": "***",
                "project": "digits",
                "offline": True,
            },
            "hub": {
                "token": "${oc.env:HF_TOKEN}",
                "password": "***",
                "url": "postgresql://***@host",
            },
        },
        "net": {
            "max_tokens": 512,
            "token": 3,
            "token_dropout": 0.1,
            "width": 64,
            "pad_token_id": 0,
        },
        "credentials": {"_target_": "src.x.Z", "user": "***", "none": None, "flag": False},
        "tags": ["a", {"secret": "***"}, "--token ***"],
        "callbacks.hub.api_key": "***",
    }
    assert repr(values) == before
