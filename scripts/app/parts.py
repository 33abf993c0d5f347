"""The common parts of the tabs of `folio app`: Gradio without telemetry, text boxes, examples, errors of one line."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from html import escape

from ...jobs.extras import extra

os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"  # before the import, which would send telemetry
with extra("app", "The app"):
    import fastapi as fastapi  # for page.py
    import gradio as gr

MAX_CHARACTERS = 20_000  # of a text, longer than most contexts, and quick to encode
# The options of events that use the model or the index.
EVENT = {"concurrency_limit": 1, "api_visibility": "private", "show_progress": "minimal"}


def box(name: str, **options) -> gr.Textbox:
    return gr.Textbox(label=name, show_label=False, placeholder=name, max_length=MAX_CHARACTERS, **options)


def run_controls(
    run: Callable, text: gr.Textbox, names: list[str], inputs: Sequence, out: list, examples: list[str], empty: list
) -> tuple[list, list[gr.Button]]:
    """Draw buttons, of which the first calls `run` and the second stops it, and examples to click.

    Enter also calls `run` if the text has one line. After an error, the last outputs are `empty`. Returns the events
    that call `run`, and the buttons.
    """
    with gr.Row():
        buttons = [gr.Button(name, size="md", min_width=90) for name in names]
    buttons[0].variant = "primary"
    with gr.Row(elem_classes="folio-examples"):
        fills = [gr.Button(example, size="sm", scale=0) for example in examples]
    triggers = [buttons[0].click, text.submit] if text.lines == 1 else [buttons[0].click]
    running = [gr.on(triggers, run, [text, *inputs], out, **EVENT)]
    for example, fill in zip(examples, fills, strict=True):
        filled = fill.click(None, None, text, js=f"() => {json.dumps([example])}", api_visibility="private")
        running.append(filled.then(run, [text, *inputs], out, **EVENT))
    for each in running if empty else []:
        each.failure(lambda: empty, None, out[-len(empty) :], api_visibility="private")
    if names[1:]:
        buttons[1].click(None, cancels=running, api_visibility="private")
    return running, buttons


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Show errors that a user can cause as one line of plain text in the page."""
    try:
        yield
    except (ValueError, RuntimeError, LookupError, TypeError, OSError, ImportError) as error:
        message = escape(" ".join(str(error).split()))
        raise gr.Error(message, title="", print_exception=False) from None


def check(text: str, name: str) -> None:
    if not text.strip():
        raise ValueError(f"The {name} is empty.")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"The {name} has {len(text):,} characters: {MAX_CHARACTERS:,} are the most.")
