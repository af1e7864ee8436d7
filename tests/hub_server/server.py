"""The socket: a hub that listens on loopback."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

from hub_server.messages import Reply, Request
from hub_server.protocol import HubProtocol
from hub_server.repositories import HubState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

#: Token to user. The owner may do everything under ``owner/``; the guest is somebody else with an account.
USERS = {"hf_owner": "owner", "hf_guest": "guest"}


class HubServer:
    """A hub on a free port of loopback, all in memory.

    Parameters
    ----------
    users
        Token to user name.

    Attributes
    ----------
    state
        The repositories, to look into or to change behind the clients' backs.
    log
        (method, path) of each request, in order.
    intercept
        Called with each request before it is answered; a Reply that it returns is sent instead. To make trouble.
    """

    def __init__(self, users: Mapping[str, str] = USERS) -> None:
        self.state = HubState(users)
        self.log: list[tuple[str, str]] = []
        self.intercept: Callable[[Request], Reply | None] | None = None
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._protocol = HubProtocol(self.state, self.url, storage_url=f"http://localhost:{self._server.server_port}")

    def start(self) -> Self:
        """Listen, on a thread of its own."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening and free the port."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def answer(self, request: Request) -> Reply:
        """Note a request and answer it."""
        self.log.append((request.method, request.path))
        instead = self.intercept(request) if self.intercept else None
        return instead or self._protocol.answer(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away in the middle; they do so on purpose."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler_of(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    """The handler class that ``http.server`` wants, bound to a hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = hub.answer(
                Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers, self.read_body())
            )
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body if reply.cut_after is None else reply.body[: reply.cut_after])
            if reply.cut_after is not None:
                self.close_connection = True

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def log_message(self, format: str, *values: object) -> None:
            """Say nothing: the hub keeps its own log."""

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    return Handler
