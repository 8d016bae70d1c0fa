"""Processes: killed, slow and failing ones, slow clients, shutdown, and the command."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from src.kindling.config.compose import ROOT
from src.kindling.runs.run import Run
from tests.kindling.deploy.serving.server_process import (
    FAULTY,
    HEAD,
    LARGE_IMAGE,
    Server,
    encode,
    file_of,
    run_threads,
    serve,
    wait_until,
)


@pytest.mark.parametrize("kind", ["image", pytest.param("table", marks=pytest.mark.long)])
def test_slow_decoders_are_killed(kind: str, digits: Run, houses: Run) -> None:
    row = json.dumps({"size": 3, "rooms": 2, "color": "red", "new": True}).encode()
    run, good = (digits, LARGE_IMAGE) if kind == "image" else (houses, row + b" " * 20_000)
    with serve(file_of(run), "--decode", "1.5", module=FAULTY, FAULT="hang") as server:
        before, slow = server.decoders(), b"slow" + bytes(40_000)
        refused: list[tuple[int, Any]] = []

        def attack() -> None:
            refused.append(server.request("/predict", slow))

        attacks = [threading.Thread(target=attack) for _ in before]
        for thread in attacks:
            thread.start()
        wait_until(lambda: server.request("/ready")[0] == 503)
        assert server.request("/ready")[1]["status"].startswith("busy")
        assert server.request("/health")[0] == 200
        assert refused == []
        for thread in attacks:
            thread.join()
        reason = "decoding took more than 1.5 s; send less, or simpler files"
        assert refused == [(422, {"error": reason})] * len(before)
        assert server.request("/predict", good)[0] == 200
        after = set(server.decoders())
        assert after
        assert after.isdisjoint(before)
        status, error = server.stop()
        assert status == 0
        killed = "decoder    killed: decoding took more than 1.5 s\n"
        assert error.count(killed) == len(before)


def test_slow_clients_and_too_many_connections(digits: Run) -> None:
    with serve(file_of(digits), "--patience", "0.5", "--connections", "4") as server:
        parts = (b"", b"GET /health HTTP/1.1\r\nHost:", HEAD + b"100\r\n\r\nx")

        def send_part(i: int) -> None:
            response = server.raw(parts[i])
            assert response.startswith(b"HTTP/1.1 408 ")
            assert b"within 0.5 s" in response

        run_threads(3, send_part)
        idle = [server.connect() for _ in range(4)]
        assert server.raw(b"").startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        for end in idle:
            assert end.recv(1000).startswith(b"HTTP/1.1 408 ")
            end.close()
        assert server.request("/health")[0] == 200


def test_killed_decoders_and_workers_are_replaced(digits: Run) -> None:
    with serve(file_of(digits)) as server:
        for pid in server.decoders():
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
        assert server.request("/predict", LARGE_IMAGE)[0] == 200
        assert "kindling_decoders_replaced 1.0\n" in server.request("/metrics")[1]
        worker = server.worker()
        with server.connect() as waiting:
            waiting.sendall(HEAD + b"100\r\n\r\nx")
            assert server.request("/health")[0] == 200
            os.kill(worker, signal.SIGKILL)
            with suppress(ConnectionResetError):
                assert waiting.recv(1000) == b""
        run_threads(8, lambda _: server.request("/predict", encode()))
        assert server.worker() != worker
        status, error = server.stop()
        assert status == 0
        assert error.splitlines() == [
            "decoder    ended; starting another",
            "worker     ended by signal 9; starting another",
        ]


def test_sigterm_under_load_loses_no_accepted_request(digits: Run) -> None:
    with serve(file_of(digits)) as server:
        counts, lost, started = [0] * 16, list[str](), threading.Barrier(17)

        def send_requests(i: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            closing = False
            while not closing:
                try:
                    connection.request("POST", "/predict", encode())
                    response = connection.getresponse()
                    response.read()
                    assert response.status == 200
                except Exception as error:
                    lost.append(repr(error))
                    return
                counts[i] += 1
                if counts[i] == 5:
                    started.wait()
                closing = response.headers.get("connection") == "close"

        clients = [threading.Thread(target=send_requests, args=(i,)) for i in range(16)]
        for client in clients:
            client.start()
        started.wait()
        worker = server.worker()
        status, error = server.stop()
        for client in clients:
            client.join()
    assert lost == []
    assert min(counts) >= 5
    assert (status, error) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_killed_server_leaves_no_process(digits: Run) -> None:
    server = Server(file_of(digits))
    processes = [*server.decoders(), server.worker()]
    assert len(processes) > 1
    with server.connect() as waiting:
        server.process.kill()
        server.process.communicate()
        assert waiting.recv(1000) == b""  # the worker has closed it, and ends
    for pid in processes:
        wait_until(lambda pid=pid: has_ended(pid))


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_worker_restarts_after_failed_starts(digits: Run, tmp_path: Path) -> None:
    shaky = {"FAULT": "shaky", "SHAKY_STARTS": "2", "SHAKY_FILE": str(tmp_path / "count")}
    with serve(file_of(digits), module=FAULTY, **shaky) as server:
        assert server.request("/ready")[0] == 200  # the socket listens from the start
        _, error = server.stop()
    end = "worker     ended by signal 9 before it was ready; starting another in"
    assert error.splitlines() == [
        "almost ready",
        f"{end} 0.01 s",
        "almost ready",
        f"{end} 0.02 s",
    ]


def test_server_gives_up_after_failed_starts(digits: Run, tmp_path: Path) -> None:
    shaky = {"FAULT": "shaky", "SHAKY_STARTS": "99", "SHAKY_FILE": str(tmp_path / "count")}
    words = [sys.executable, "-m", FAULTY, str(file_of(digits)), "--port", "0"]
    environment = {**os.environ, **shaky}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert (tmp_path / "count").read_text() == "x" * 6
    end = "worker     ended by signal 9 before it was ready, 6 times in a row"
    assert done.stderr.splitlines()[-2:] == ["almost ready", end]
