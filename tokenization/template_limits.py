"""Chat templates of others run in a process of their own. A template is a program: it may loop, or write without end.

A single operation, such as a power, can take hours, and nothing but the end of its process ends it. It is no process of
multiprocessing's, which imports the caller's main module again.
"""

import atexit
import contextlib
import faulthandler
import os
import pickle
import signal
import subprocess
import sys
import threading

from transformers.utils.chat_template_utils import render_jinja_template

SECONDS = 5  # templates take less than a thousandth of one
MEMORY_BYTES = 2**30
LONGEST = 10**7  # characters of a chat: more than contexts hold

_processes: dict[int, subprocess.Popen] = {}  # by the process that talks with it: a fork has its own
_lock = threading.Lock()


class TemplateLimitError(ValueError):
    """A chat template that refuses the messages, runs on, or writes on: do not use it, or send it less."""


def render_with_limits(*args, **options) -> tuple[list[str], list]:
    """What `render_jinja_template` gives; TemplateLimitError for its errors, and beyond the time and memory."""
    with _lock:
        process = _running()
        try:
            pickle.dump((SECONDS, args, options), process.stdin)  # pyright: ignore[reportArgumentType]
            process.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
            answer, why = pickle.load(process.stdout)  # pyright: ignore[reportArgumentType]
        except BaseException as error:  # after Ctrl-C, its answer would be taken for that to the next chat
            process.kill()
            close()
            if not isinstance(error, EOFError | OSError):
                raise
            answer, why = None, f"was not finished after {SECONDS} seconds, or ended its process."
    if answer is None:
        raise TemplateLimitError(f"The chat template {why}")
    return answer


def _running() -> subprocess.Popen:
    process = _processes.get(os.getpid())
    if process is None or process.poll() is not None:
        close()
        command = [sys.executable, "-P", __file__]  # -P: nothing in the current folder is imported
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = _processes[os.getpid()] = subprocess.Popen(command, **pipes)
    return process


@atexit.register
def close() -> None:
    """End the process; the next chat starts another."""
    if (process := _processes.pop(os.getpid(), None)) is not None:
        with contextlib.suppress(OSError), process:  # closes the pipes, at which it ends, and waits
            pass


def _serve() -> None:
    """Render what comes through stdin, and answer through stdout, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and decides
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no limits, macOS not this one
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    while True:
        seconds, args, options = pickle.load(sys.stdin.buffer)
        faulthandler.dump_traceback_later(seconds, exit=True)  # from a thread in C, whatever the template is doing
        answer, why = None, ""
        try:
            answer = render_jinja_template(*args, **options)
            if (length := len(answer[0][0])) > LONGEST:
                raise MemoryError(f"It writes {length:,} characters: {LONGEST:,} are the most.")
        except (MemoryError, OverflowError, RecursionError) as error:
            answer, why = None, f"makes too much of these messages. {error}".strip()
        except Exception as error:
            answer, why = None, f"refuses these messages: {error}"[:1000]
        faulthandler.cancel_dump_traceback_later()
        pickle.dump((answer, why), sys.stdout.buffer)
        sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(EOFError):  # the parent has gone
        _serve()
