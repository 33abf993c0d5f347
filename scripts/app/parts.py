"""What the tabs of `folio app` share: Gradio, which calls nobody here, text boxes, and errors in a line."""

import contextlib
import os
from collections.abc import Iterator
from html import escape

from ...jobs.extras import extra

os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"  # before the import, which would call home
with extra("app", "The app"):
    import fastapi
    import gradio as gr

__all__ = ["EVENT", "box", "button", "check", "fastapi", "gr", "one_line_errors"]

LONGEST_TEXT = 20_000  # characters, which are encoded in an instant; contexts are shorter than most
EVENT = {"concurrency_limit": 1, "api_visibility": "private"}  # for whatever asks the model or the index


def box(placeholder: str, **options) -> gr.Textbox:
    return gr.Textbox(show_label=False, placeholder=placeholder, max_length=LONGEST_TEXT, **options)


def button(name: str, min_width: int = 90, **options) -> gr.Button:
    """A button beside a text box."""
    return gr.Button(name, size="md", scale=0, min_width=min_width, **options)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can cause is told in a line of the page, in which nothing is HTML."""
    try:
        yield
    except (ValueError, RuntimeError, LookupError, TypeError, OSError, ImportError) as error:
        message = escape(" ".join(str(error).split()))
        raise gr.Error(message, title="", print_exception=False) from None


def check(text: str, name: str) -> None:
    if not text.strip():
        raise ValueError(f"The {name} is empty.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"The {name} has {len(text):,} characters: {LONGEST_TEXT:,} are the most.")
