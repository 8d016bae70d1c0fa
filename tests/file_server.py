"""A real HTTP server on loopback, for what is downloaded."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files` by name. It counts what is downloaded, and can break off or halt in the middle of a file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.broken: set[str] = set()
        self.held: set[str] = set()
        self.downloads: list[str] = []
        self.halfway, self.go_on = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, server = self.path[1:], self.server
        # torchvision looks for redirections first, by a GET that only says it was a HEAD.
        asks = self.headers["Method"] == "HEAD"
        if not asks:
            server.downloads.append(name)
        if name not in server.files:
            self.send_error(404)
            return
        content = server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if asks:
            return
        half = len(content) // 2
        self.wfile.write(content[:half])
        if name in server.held:
            server.held.discard(name)
            server.halfway.set()
            server.go_on.wait()
        if name not in server.broken:
            self.wfile.write(content[half:])

    def log_message(self, *_: object) -> None:
        pass
