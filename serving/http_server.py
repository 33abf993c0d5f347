"""An HTTP server: it answers to its own names alone, and ends when it is told to."""

import asyncio
import logging
import signal
import socket

from ..jobs.extras import extra
from .generator import TextGenerator

with extra("serve", "A server"):
    import uvicorn
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.types import ASGIApp

SECONDS_TO_END = 5  # for clients that neither finish their request nor read their answer, when the server ends


def bind(host: str, port: int) -> socket.socket:
    """A socket on which nobody else listens.

    Raises:
        OSError: if the port is in use, or the host is not one of this machine's.
    """
    try:
        if not 0 <= port < 65536:  # the library takes what is left of 65536
            raise OverflowError("no such port")
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"Cannot serve at {host}:{port} ({reason}): give another --port or --host.") from None


def serve(app: ASGIApp, generator: TextGenerator, bound: socket.socket) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM, which end what is being generated with its next token."""

    class Server(uvicorn.Server):
        def handle_exit(self, sig, frame) -> None:
            generator.stop()
            super().handle_exit(sig, frame)

    for name in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises again what ended it: to end is not an error here
        signal.signal(name, lambda *_: None)
    address = bound.getsockname()[0]
    if address.startswith("127."):  # else a page in a browser could reach it under a name of its own
        app = TrustedHostMiddleware(app, allowed_hosts=["localhost", "127.0.0.1", address])
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=SECONDS_TO_END)
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    Server(config).run(sockets=[bound])


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """False for the traceback of a client's task that was cut off at the end; uvicorn says in a line that it was."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
