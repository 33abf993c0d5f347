"""Chat templates of others, rendered in a separate process: a template is a program, which may never end."""

import atexit

from transformers.utils.chat_template_utils import render_jinja_template

from ..jobs.limited_process import LimitedProcess

SECONDS = 5  # templates take less than a thousandth of one
MEMORY_BYTES = 2**30
MAX_LENGTH = 10**7  # characters of a chat: more than contexts hold


def render_with_limits(*args, **options) -> tuple[list[str], list]:
    """Call `render_jinja_template` within limits of time and memory; raises ValueError for its errors, and beyond."""
    try:
        return _process.call(SECONDS, *args, **options)
    except ValueError as error:
        raise ValueError(f"The chat template {error}") from None


def render(*args, **options) -> tuple[list[str], list]:
    """Render in the separate process; raises ValueError, whose message completes "The chat template ..."."""
    try:
        found = render_jinja_template(*args, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"rejects these messages: {error}"[:1000]) from None
    if (length := len(found[0][0])) > MAX_LENGTH:
        raise ValueError(f"writes {length:,} characters, and at most {MAX_LENGTH:,} are allowed")
    return found


_process = LimitedProcess(__name__, render.__name__, MEMORY_BYTES)
atexit.register(_process.close)
