"""Who may send requests: by a key, and by the name under which they reach the server."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """The key that clients send, unless it is None, and the host names, unless there are none."""

    key: str | None = None
    hosts: Sequence[str] = ()

    def has_host(self, headers: Mapping[str, str]) -> bool:
        """Check that the host name is the server's, against DNS rebinding; HTTP/1.0 sends none."""
        host = headers.get("host")
        return not self.hosts or host is None or _without_port(host) in self.hosts

    def has_key(self, headers: Mapping[str, str]) -> bool:
        if self.key is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self.key.encode())  # text must be ASCII
        return scheme.lower() == "bearer" and same


def choose_hosts(host: str, local: bool, allowed: str) -> Sequence[str]:
    """Choose the names in `--allowed-hosts`; else this machine's own, or any if a key is needed."""
    if allowed:
        return [_without_port(name.strip()) for name in allowed.split(",")]
    return [*LOOPBACK, host.lower()] if local else ()


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    # An address of IPv6 has colons, too, in brackets where a port may follow.
    name = name if port.isdigit() and (":" not in name or name.endswith("]")) else host
    return name.strip("[]").rstrip(".").lower()
