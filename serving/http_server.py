"""An HTTP server that rejects foreign host names and pages, limits slow clients, and ends at a signal."""

import asyncio
import hmac
import ipaddress
import logging
import signal
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from ..jobs.extras import extra
from .generator import TextGenerator

with extra("serve", "A server"):
    import uvicorn
    from starlette.datastructures import Headers
    from starlette.middleware.cors import CORSMiddleware
    from starlette.types import ASGIApp, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from .answers import ApiError

SHUTDOWN_SECONDS = 5  # for clients that neither finish their request nor read their answer, when the server ends
REQUEST_SECONDS = 10  # for the headers of a request, and for each next part of its body
MAX_HEADER_BYTES = 64 * 2**10  # bytes
MAX_UNFINISHED = 256  # connections without a whole request: of more, the oldest is closed
MAX_CONNECTIONS = 800  # clients beyond them are answered with 503; systems allow 1,024 open files
OWN_NAMES = {"localhost", "127.0.0.1", "::1"}


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket; OSError if the port is in use, or the host is not this machine's."""
    try:
        if not 0 <= port < 65536:  # the library takes what is left of 65536
            raise OverflowError("no such port")
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"Cannot serve at {host}:{port} ({reason}): give another --port or --host.") from None


def is_local(bound: socket.socket) -> bool:
    """Return True if only processes of this machine can reach a socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def address_of(bound: socket.socket) -> str:
    """Return the address of a socket as a URL has it."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve(app: ASGIApp, generator: TextGenerator, bound: socket.socket) -> None:
    """Serve until SIGINT (Ctrl-C), SIGTERM or SIGHUP, which end each text with its next token."""

    class Server(uvicorn.Server):
        def handle_exit(self, sig, frame) -> None:
            generator.stop()
            super().handle_exit(sig, frame)

    for name in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises again what ended it: to end is not an error here
        signal.signal(name, lambda *_: None)
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows; ignored under nohup
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:
        signal.signal(hangup, lambda *_: signal.raise_signal(signal.SIGTERM))
    config = uvicorn.Config(
        app, http=BoundedProtocol, ws="none", log_level="error", access_log=False,
        proxy_headers=False, server_header=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        limit_concurrency=MAX_CONNECTIONS, h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    Server(config).run(sockets=[bound])


def guarded(
    app: ASGIApp, bound: socket.socket, allow_origins: Collection[str] = (), api_key: str | None = None
) -> ASGIApp:
    """Wrap an application so that it rejects pages of other origins and, on a loopback address, other host names.

    A page can reach this machine under a name of its own, and send simple requests to any name. The browser's headers
    `Host`, `Origin` and `Sec-Fetch-Site` tell such requests. With `api_key`, all clients but those of /health send it.
    """
    names = OWN_NAMES | {bound.getsockname()[0]} if is_local(bound) else None
    if allow_origins:
        app = CORSMiddleware(app, allow_origins, ("GET", "POST"), ("*",), allow_private_network=True)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            given = headers.get("authorization", "").encode()
            needs_key = api_key is not None and scope["path"] != "/health" and scope["method"] != "OPTIONS"
            if why := _refusal(scope["method"], headers, names, allow_origins):
                chosen = ApiError(why, 403).response()
            elif needs_key and not hmac.compare_digest(given, f"Bearer {api_key}".encode()):
                why = "The API key is missing or wrong: send this server's."
                chosen = ApiError(why, 401, code="invalid_api_key").response()
        await chosen(scope, receive, send)

    return guard


def _refusal(method: str, headers: Headers, names: set[str] | None, allow_origins: Collection[str]) -> str | None:
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        name, own = urlsplit(f"//{host}").hostname, origin is not None and urlsplit(origin).netloc == host
    except ValueError:
        name, own = None, False
    if names is not None and name not in names:
        return f"This server is not {host!r}: ask it as localhost."
    if origin is not None:
        return None if own or origin in allow_origins else f"Pages of {origin} may not use this server."
    is_followed_link = method == "GET" and headers.get("sec-fetch-dest") == "document"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_followed_link:
        return "Pages of other origins may not use this server."
    return None


class BoundedProtocol(H11Protocol):
    """Closes connections that send no complete request in time, and the oldest of too many such connections."""

    unfinished: "dict[BoundedProtocol, asyncio.TimerHandle]" = {}  # of the process, oldest first

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._restart_timer()
        while len(self.unfinished) > MAX_UNFINISHED:
            next(iter(self.unfinished))._abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._restart_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._restart_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _restart_timer(self) -> None:
        is_asking = self.cycle is not None and not self.cycle.response_complete
        if is_asking and not self.cycle.more_body:
            self._stop_timer()  # the request is whole: now it waits for us
        elif is_asking or self not in self.unfinished:  # the headers have one time for all of them
            if self in self.unfinished:  # where it keeps its place
                self.unfinished[self].cancel()
            self.unfinished[self] = self.loop.call_later(REQUEST_SECONDS, self._abort)

    def _stop_timer(self) -> None:
        if (timer := self.unfinished.pop(self, None)) is not None:
            timer.cancel()

    def _abort(self) -> None:
        self._stop_timer()
        self.transport.abort()


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Drop the traceback of a task that was cancelled at the end; uvicorn reports it in one line."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
