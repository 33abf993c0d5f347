"""The page of `folio app`: one function a tab. What the model generates comes from one generator, in turn."""

import contextlib
import copy
import os
from collections.abc import AsyncIterator, Callable, Iterator
from html import escape

from transformers import PreTrainedTokenizerBase

from ..modeling.chat import Chat
from ..modeling.introspection import attention_weights, token_predictions, with_attentions
from ..modeling.serving import Choice, TextGenerator, generation_config
from ..tokenization import encode_chat, encode_texts
from ..tokenization.inspection import shown, vocabulary_bytes
from .app_html import CSS, attention_html, legend, tokens_html

os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"  # before the import, which would call home
try:
    import fastapi
    import gradio as gr
except ImportError as error:
    raise ImportError(f"The app needs {str(error.name).split('.')[0]}: pip install 'foliogpt[app]'.") from None

LONGEST_TEXT = 20_000  # characters, which are encoded in an instant; contexts are shorter than most
MOST_TOKENS = 512  # in the token view
MOST_ATTENDING = 48  # in the attention map
WAITING = 64  # requests in line, before others are sent away
# Whatever a text or a model says, the page asks nobody but this server for anything.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
SYSTEM_FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]
SYSTEM_MONO = ["ui-monospace", "Consolas", "monospace"]


def build_page(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, title: str = "FolioGPT") -> gr.Blocks:
    """The page for one model and its tokenizer. `application` makes it a server's."""
    model = generator.model
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True) as page:
        context = f", context {generator.context_length:,} tokens" if generator.context_length else ""
        gr.HTML(
            f'<div class="folio-title"><b>{escape(title)}</b><span>{type(model).__name__}, '
            f"{model.num_parameters():,} parameters{context}</span></div>"
        )
        with gr.Sidebar(position="right", open=True, width=300):
            sampling = sampling_controls(generator)
        with gr.Tab("Chat"):
            chat_tab(generator, copy.deepcopy(tokenizer), sampling)
        with gr.Tab("Write"):
            write_tab(generator, copy.deepcopy(tokenizer), sampling)
        with gr.Tab("Tokens"):
            tokens_tab(generator, copy.deepcopy(tokenizer))
        with gr.Tab("Attention"):
            attention_tab(generator, copy.deepcopy(tokenizer))
    return page.queue(max_size=WAITING, api_open=False)


def sampling_controls(generator: TextGenerator) -> dict[str, gr.Component]:
    """How to generate, under transformers' names; what the checkpoint says is set."""
    config = generator.model.generation_config
    longest = min(generator.context_length or 2048, 2048) - 1
    return {
        "max_new_tokens": gr.Slider(1, longest, min(200, longest // 2), step=1, label="max_new_tokens"),
        "do_sample": gr.Checkbox(
            bool(config.do_sample), label="do_sample", info="draw tokens; without, the likeliest is taken"
        ),
        "temperature": gr.Slider(0.05, 2, config.temperature or 1.0, step=0.05, label="temperature"),
        "top_k": gr.Slider(0, 200, config.top_k or 0, step=1, label="top_k", info="0 keeps all"),
        "top_p": gr.Slider(0.05, 1, config.top_p or 1.0, step=0.01, label="top_p"),
        "min_p": gr.Slider(0, 0.5, config.min_p or 0.0, step=0.01, label="min_p"),
        "repetition_penalty": gr.Slider(
            1, 2, config.repetition_penalty or 1.0, step=0.01, label="repetition_penalty", info="1 is none"
        ),
        "num_beams": gr.Slider(1, 8, 1, step=1, label="num_beams", info="more are told at the end"),
    }


def chat_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, sampling: dict) -> None:
    if not tokenizer.chat_template:
        gr.Markdown("This model has no chat template, so it was not made for chats. It continues texts: see *Write*.")
        return
    chat = Chat(generator, tokenizer, encode_chat)

    async def reply(message: str, history: list[dict], system: str, *values) -> AsyncIterator[str]:
        with one_line_errors():
            said = [{"role": turn["role"], "content": _text(turn["content"])} for turn in history]
            said = [turn for turn in said if turn["role"] in ("user", "assistant")]
            told = [{"role": "system", "content": system}] if system.strip() else []
            _check(message, "message")
            options = _options(sampling, values)
            choice, _ = chat.answer([*told, *said, {"role": "user", "content": message}], **options)
            async for text in _growing(generator, choice):
                yield text

    with gr.Accordion("System prompt", open=False):
        system = gr.Textbox(
            show_label=False, placeholder="What the model is told before the chat", max_length=LONGEST_TEXT
        )
    gr.ChatInterface(
        reply,
        chatbot=gr.Chatbot(
            show_label=False,
            render_markdown=False,  # what a model says is text: no image, link or form of it reaches the page
            buttons=["copy"],
            height="60vh",
            placeholder="Say something.",
            feedback_options=None,
        ),
        textbox=gr.Textbox(
            show_label=False, placeholder="Message", max_length=LONGEST_TEXT, submit_btn=True, stop_btn=True
        ),
        additional_inputs=[system, *sampling.values()],
        concurrency_limit=1,
        analytics_enabled=False,
        flagging_mode="never",
        api_visibility="private",
    )


def write_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, sampling: dict) -> None:
    async def write(text: str, *values) -> AsyncIterator[str]:
        with one_line_errors():
            _check(text, "text")
            options = _options(sampling, values)
            ids = tokenizer("")["input_ids"] + encode_texts(tokenizer, [text])[0]
            new = options.pop("max_new_tokens")
            room = new if generator.context_length is None else generator.context_length - len(ids)
            if room < 1:
                raise ValueError(
                    f"The text has {len(ids):,} tokens, the context {generator.context_length:,}: shorten it."
                )
            config = generation_config(generator.model, min(new, room), **options)
            async for grown in _growing(generator, Choice(ids, config, generator.stop_strings)):
                yield text + grown

    box = _box("A text for the model to continue", lines=12, max_lines=24)
    with gr.Row():
        go, stop = gr.Button("Continue", variant="primary"), gr.Button("Stop")
    running = go.click(write, [box, *sampling.values()], box, concurrency_limit=1, api_visibility="private")
    stop.click(None, cancels=running, api_visibility="private")


def tokens_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase) -> None:
    spelled = _speller(tokenizer)
    most = min(generator.context_length or MOST_TOKENS, MOST_TOKENS)

    def view(text: str) -> str:
        with one_line_errors():
            ids = _encode(tokenizer, text, most)
            return tokens_html(token_predictions(generator.model, ids), [spelled(id) for id in ids], spelled)

    gr.Markdown("How likely the model found each token, after those before it. Point at one to see what it expected.")
    box = _box(f"A text of up to {most} tokens", lines=3)
    button = gr.Button("Show", variant="primary")
    out = gr.HTML(legend(), min_height=260)
    gr.on([button.click, box.submit], view, box, out, concurrency_limit=1, api_visibility="private")


def attention_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase) -> None:
    spelled = _speller(tokenizer)
    config = generator.model.config.get_text_config()
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    most = min(generator.context_length or MOST_ATTENDING, MOST_ATTENDING)
    eager = with_attentions(generator.model)

    def view(text: str, layer: int, head: int) -> str:
        with one_line_errors():
            ids = _encode(tokenizer, text, most)
            weights = attention_weights(eager, ids)[layer - 1, head - 1]
            return attention_html(weights, [spelled(id) for id in ids])

    gr.Markdown("Where each token (a row) looks, among those before it and itself (the columns).")
    box = _box(f"A text of up to {most} tokens", lines=2)
    with gr.Row():
        layer = gr.Slider(1, layers, 1, step=1, label="layer")
        head = gr.Slider(1, heads, 1, step=1, label="head")
    button = gr.Button("Show", variant="primary")
    out = gr.HTML(min_height=260)
    inputs = [box, layer, head]
    gr.on([button.click, box.submit], view, inputs, out, concurrency_limit=1, api_visibility="private")
    gr.on(
        [layer.release, head.release],
        lambda text, *places: view(text, *places) if text.strip() else "",
        inputs, out, concurrency_limit=1, trigger_mode="always_last", api_visibility="private",
    )  # fmt: skip


def _box(placeholder: str, **options) -> gr.Textbox:
    return gr.Textbox(show_label=False, placeholder=placeholder, max_length=LONGEST_TEXT, **options)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can cause is told in a line of the page, in which nothing is HTML."""
    try:
        yield
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        message = escape(" ".join(str(error).split()))
        raise gr.Error(message, title="", print_exception=False) from None


def _check(text: str, name: str) -> None:
    if not text.strip():
        raise ValueError(f"The {name} is empty.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"The {name} has {len(text):,} characters: {LONGEST_TEXT:,} are the most.")


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> list[int]:
    _check(text, "text")
    ids = tokenizer("")["input_ids"] + encode_texts(tokenizer, [text])[0]
    if len(ids) > most:
        raise ValueError(f"The text has {len(ids):,} tokens, and {most} are shown at most: shorten it.")
    return ids


def _speller(tokenizer: PreTrainedTokenizerBase):
    """How a token is written, by its id."""
    spelled = vocabulary_bytes(tokenizer)
    return lambda id: shown(spelled.get(id, b"?"))


def _options(sampling: dict, values: tuple) -> dict:
    options = dict(zip(sampling, values, strict=True))
    if not options["do_sample"]:
        options["temperature"] = 0.0
    return options


async def _growing(generator: TextGenerator, choice: Choice) -> AsyncIterator[str]:
    """The text so far, each time that there is more of it."""
    async with contextlib.aclosing(generator.stream(choice)) as pieces:
        async for _ in pieces:
            yield choice.text
    yield choice.text


def _text(content) -> str:
    """What was said, which the page sends as a string or in parts."""
    parts = [content] if isinstance(content, str) else content
    return "".join(part if isinstance(part, str) else part.get("text", "") for part in parts)


def application(page: gr.Blocks) -> Callable:
    """The page as an ASGI application that sends nothing to anybody."""
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=SYSTEM_MONO)
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), page, "/", theme=theme, css=CSS, footer_links=[], run_history=False,
        enable_monitoring=False, ssr_mode=False, show_error=True,
    )  # fmt: skip

    async def with_policy(scope, receive, send) -> None:
        async def add(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await app(scope, receive, add)

    return with_policy
