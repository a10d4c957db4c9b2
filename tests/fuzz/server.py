"""A server for the doors of sources on the network, and one that nobody may ask."""

import re
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fuzz.pieces import CANARY


class Here:
    """Both servers, of one process. ``pages``: bodies by path."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self._served = 0
        self.asked = 0  # how often the canary was
        self._canary = self._listening()
        threading.Thread(target=self._count, daemon=True).start()
        pages = self.pages

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for an answer

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = pages.get(self.path.partition("?")[0])
                part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                whole = len(body or b"")
                if body and part and int(part[1]) < whole:
                    body = body[int(part[1]) : int(part[2]) + 1 if part[2] else whole]
                    self.send_response(206)
                    end = int(part[1]) + len(body) - 1
                    self.send_header("Content-Range", f"bytes {part[1]}-{end}/{whole}")
                else:
                    self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body or b"")

            def handle(self) -> None:
                with suppress(OSError):  # a client that has read enough
                    super().handle()

            do_POST = do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, files: Mapping[str, bytes]) -> str:
        """Serve files at places that were never asked for: GDAL keeps what it read. Returns their common URL.

        In them HERE.of.the.case stands for the host and these places.
        """
        self.pages.clear()
        self._served += 1
        base = f"{self.url}/{self._served}"
        for path, data in files.items():
            body = data.replace(b"http://HERE.of.the.case", base.encode())
            self.pages[f"/{self._served}/{path}"] = self.filled(body)
        return base

    def filled(self, data: bytes) -> bytes:
        """``data`` with the canary's port in it; not a byte longer."""
        return data.replace(CANARY.encode(), f"127.0.0.2:{self._canary.getsockname()[1]:05}".encode())

    @staticmethod
    def _listening() -> socket.socket:
        while True:
            found = socket.create_server(("127.0.0.2", 0))
            if found.getsockname()[1] >= 10_000:  # as long as what stands for it
                return found
            found.close()

    def _count(self) -> None:
        while True:
            connection, _ = self._canary.accept()
            self.asked += 1
            connection.close()
