"""Limits for chat templates. A template comes with a model and is a program: it may loop, or write without end."""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Iterator

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

SECONDS = 5  # templates take less than a thousandth of one
LARGEST_GROWTH = 2**29  # bytes by which the process may grow
LONGEST = 10**7  # characters of a chat: more than contexts hold
LOOPING_FILES = ("<template>", "filters.py")  # where a loop need not call a function

_rendering = threading.Lock()  # the limit of memory is the whole process's


class TemplateLimitError(ValueError):
    """A chat template that runs on or writes on: do not use it, or send it less."""


@contextlib.contextmanager
def template_limits(template: str) -> Iterator[None]:
    """Raise `TemplateLimitError` if what is rendered in the block takes too much time or, on Linux, memory."""
    ends, before = time.monotonic() + SECONDS, sys.gettrace()

    def on_call(frame, event, arg, now=time.monotonic):
        if now() > ends:
            raise TemplateLimitError(f"The chat template was not finished after {SECONDS} seconds.")
        return on_call if frame.f_code.co_filename.endswith(LOOPING_FILES) else None

    with _rendering, _memory_limit():
        sys.settrace(on_call)
        try:
            if _has_power(template):  # one operation without end, in which nothing can interrupt it
                raise TemplateLimitError("The chat template uses `**`, which can take forever.")
            yield
        except (MemoryError, OverflowError, RecursionError) as error:
            raise TemplateLimitError(f"The chat template makes too much of these messages. {error}".strip()) from None
        finally:
            sys.settrace(before)


@functools.lru_cache(maxsize=64)
def _has_power(template: str) -> bool:
    return _compile_jinja_template("").environment.parse(template).find(jinja2.nodes.Pow) is not None


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    try:
        import resource

        with open("/proc/self/statm", "rb") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + LARGEST_GROWTH
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or most < soft:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
