"""Signals that stop a run: Ctrl-C's SIGINT, and the SIGTERM of schedulers, containers and preempted machines."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work; the message names what was saved, and how to continue."""

    def __init__(self, message: str = "", signum: int = signal.SIGINT):
        super().__init__(message)
        self.signum = signum


def interrupt(signum: int, frame=None) -> None:
    """Handle a signal as Python handles Ctrl-C: everything on the way out is cleaned up."""
    raise Interrupted(signum=signum)


def signal_of(error: KeyboardInterrupt) -> int:
    """Return the signal behind an exception; a shell reports 128 more as the exit code."""
    return error.signum if isinstance(error, Interrupted) else signal.SIGINT


@contextlib.contextmanager
def handled(handler: Callable, *signums: int) -> Iterator[None]:
    """Handle signals by `handler` until the block ends, if this is the main thread: others can have no handlers.

    A forked process, such as a worker of the data loader, inherits it, but ends at a SIGTERM and ignores Ctrl-C.
    """
    process = os.getpid()

    def ours(signum, frame):
        if os.getpid() == process:
            handler(signum, frame)
        elif signum == signal.SIGTERM:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {signum: signal.signal(signum, ours) for signum in signums}
    try:
        yield
    finally:
        for signum, handler_before in previous.items():
            # None: it was not set from Python, and cannot be set from there.
            signal.signal(signum, signal.SIG_DFL if handler_before is None else handler_before)
