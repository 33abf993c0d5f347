"""A function that is called in a process of its own, which ends if a call takes too much time or memory.

Nothing else ends a regular expression that takes hours. The pools of multiprocessing and pebble would import the
caller's main module again.
"""

import contextlib
import faulthandler
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import Any

OUT_OF_MEMORY = 3  # exit code
PROGRAM = f"import sys; from {__name__} import serve; serve(*sys.argv[1:])"
# Threads and Arrow's own pool reserve memory that they do not use, and the limit would count it.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}


class LimitedProcess:
    """Calls the function `name` of a `module`, from any thread and any fork; `close` ends its process."""

    def __init__(self, module: str, name: str, memory_bytes: int):
        self.function, self.memory_bytes = (module, name), memory_bytes
        self._processes: dict[int, subprocess.Popen] = {}  # by the process that talks with it: a fork has its own
        self._lock = threading.Lock()

    def call(self, seconds: float, *args: Any, **options: Any) -> Any:
        """Return what the function returns; raises its ValueError or ImportError, and ValueError beyond the limits."""
        with self._lock:
            process, start = self._running(), time.monotonic()
            try:
                pickle.dump((seconds, args, options), process.stdin)  # pyright: ignore[reportArgumentType]
                process.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
                answer, error = pickle.load(process.stdout)  # pyright: ignore[reportArgumentType]
            except (EOFError, OSError, pickle.UnpicklingError):
                self.close()
                code = process.returncode
                reason = f"ends its process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
                if code == OUT_OF_MEMORY:
                    reason = f"takes more than {self.memory_bytes / 1e9:g} GB of memory"
                elif code == 1 and time.monotonic() - start >= seconds:  # faulthandler's code
                    reason = f"takes more than {seconds} seconds"
                raise ValueError(reason) from None
            except BaseException:  # Ctrl-C: the next call would read its answer
                process.kill()
                self.close()
                raise
        if error is not None:
            raise error
        return answer

    def _running(self) -> subprocess.Popen:
        process = self._processes.get(os.getpid())
        if process is None or process.poll() is not None:
            self.close()
            # -P: nothing in the current folder is imported.
            command = [sys.executable, "-P", "-c", PROGRAM, *self.function, str(self.memory_bytes)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, **pipes)
            self._processes[os.getpid()] = process
        return process

    def close(self) -> None:
        """End the process; the next call starts another."""
        if (process := self._processes.pop(os.getpid(), None)) is not None:
            with contextlib.suppress(OSError), process:  # closes the pipes, at which it ends, and waits
                pass


def serve(module: str, name: str, memory_bytes: str) -> None:
    """Call the function with the arguments that stdin has, and answer through stdout, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints would break the answers
    function = getattr(importlib.import_module(module), name)
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no limits, macOS not this one
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(memory_bytes), resource.getrlimit(resource.RLIMIT_DATA)[1]))
    while True:
        try:
            seconds, args, options = pickle.load(sys.stdin.buffer)
        except EOFError:  # the parent has gone
            return
        # Ends the process from a thread in C, whatever the function is doing.
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            try:
                answer = function(*args, **options), None
            except (ValueError, ImportError) as error:
                answer = None, error
            pickle.dump(answer, answers)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        answers.flush()
        faulthandler.cancel_dump_traceback_later()
        args = options = answer = None
