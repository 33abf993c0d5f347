"""The page of `folio app`: one function a tab. What the model generates comes from one generator, in turn."""

import contextlib
import copy
import hmac
import time
from collections.abc import AsyncIterator, Callable
from html import escape

from transformers import PreTrainedTokenizerBase

from ...evaluation.introspection import attention_weights, token_predictions, with_attentions
from ...serving.chat import Chat
from ...serving.generator import Choice, TextGenerator, generation_config
from ...tokenization import encode_chat, encode_texts
from ...tokenization.inspection import shown, vocabulary_bytes
from .documents import CSS as DOCUMENTS_CSS
from .documents import documents_tab
from .html import CSS, attention_html, chat_html, legend, tokens_html
from .parts import EVENT, box, button, check, fastapi, gr, one_line_errors

MOST_TOKENS = 512  # in the token view
MOST_ATTENDING = 48  # in the attention map
SECONDS_BETWEEN = 0.1  # updates of a text that grows: small models are faster than browsers
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
        about = f"{type(model).__name__}, {model.num_parameters():,} parameters{context}"
        gr.HTML(f'<div class="folio-title"><b>{escape(title)}</b><span>{about}</span></div>')
        with gr.Sidebar(position="right", open=True, width=280):
            gr.HTML('<b class="folio-heading">How it answers</b>')
            sampling = sampling_controls(generator)
        with gr.Tab("Chat"):
            chat_tab(generator, copy.deepcopy(tokenizer), sampling)
        with gr.Tab("Write"):
            write_tab(generator, copy.deepcopy(tokenizer), sampling)
        with gr.Tab("Documents"):
            page.unload(documents_tab(generator, copy.deepcopy(tokenizer), sampling))
        with gr.Tab("Tokens"):
            tokens_tab(generator, copy.deepcopy(tokenizer))
        with gr.Tab("Attention"):
            attention_tab(generator, copy.deepcopy(tokenizer))
    return page.queue(max_size=WAITING, api_open=False)


def sampling_controls(generator: TextGenerator) -> dict[str, gr.Component]:
    """How to generate, under transformers' names; what the checkpoint says is set."""
    config = generator.model.generation_config
    longest = min(generator.context_length or 2048, 2048) - 1

    def slider(name: str, low: float, high: float, value: float | None, step: float) -> gr.Slider:
        value = low if value is None else min(max(value, low), high)
        return gr.Slider(low, high, value, step=step, label=name, buttons=[], elem_classes="folio-slider")

    return {
        "do_sample": gr.Checkbox(bool(config.do_sample), label="do_sample", container=False),
        "temperature": slider("temperature", 0.05, 2, config.temperature or 1.0, 0.05),
        "top_k": slider("top_k (0: all)", 0, 200, config.top_k, 1),
        "top_p": slider("top_p", 0.05, 1, config.top_p or 1.0, 0.01),
        "min_p": slider("min_p", 0, 0.5, config.min_p, 0.01),
        "repetition_penalty": slider("repetition_penalty", 1, 2, config.repetition_penalty, 0.01),
        "num_beams": slider("num_beams", 1, 8, config.num_beams, 1),
        "max_new_tokens": slider("max_new_tokens", 1, longest, min(200, longest // 2), 1),
    }


def chat_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, sampling: dict) -> None:
    if not tokenizer.chat_template:
        gr.Markdown("This model has no chat template, so it was not made for chats. It continues texts: see *Write*.")
        return
    chat = Chat(generator, tokenizer, encode_chat)

    async def reply(message: str, said: list[dict], system: str, *values) -> AsyncIterator[tuple[str, list[dict], str]]:
        with one_line_errors():
            check(message, "message")
            said = [*said, {"role": "user", "content": message}]
            told = [{"role": "system", "content": system}] if system.strip() else []
            choice, forgotten = chat.answer([*told, *said], **dict(zip(sampling, values, strict=True)))
            async for text in _growing(generator, choice):
                answered = [*said, {"role": "assistant", "content": text}]
                yield "", answered, chat_html(answered, forgotten)

    with gr.Accordion("System prompt", open=False):
        system = box("What the model is told before the chat", value="")
    said = gr.State([])
    out = gr.HTML(chat_html([]), autoscroll=True, min_height=380, max_height=560)
    with gr.Row():
        message = box("Message", scale=8, container=False)
        send, stop, clear = button("Send", variant="primary"), button("Stop"), button("New chat", 120)
    inputs, outputs = [message, said, system, *sampling.values()], [message, said, out]
    running = gr.on([message.submit, send.click], reply, inputs, outputs, show_progress="minimal", **EVENT)
    stop.click(None, cancels=running, api_visibility="private")
    clear.click(lambda: ([], chat_html([])), outputs=[said, out], cancels=running, api_visibility="private")


def write_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, sampling: dict) -> None:
    async def write(text: str, *values) -> AsyncIterator[str]:
        with one_line_errors():
            ids, options = _encode(tokenizer, text), dict(zip(sampling, values, strict=True))
            new = options.pop("max_new_tokens")
            room = new if generator.context_length is None else generator.context_length - len(ids)
            if room < 1:
                context = f"{generator.context_length:,}"
                raise ValueError(f"The text has {len(ids):,} tokens, the context {context}: shorten it.")
            config = generation_config(generator.model, min(new, room), **options)
            async for grown in _growing(generator, Choice(ids, config, generator.stop_strings)):
                yield text + grown

    text = box("A text for the model to continue", lines=12, max_lines=24)
    with gr.Row():
        go, stop = gr.Button("Continue", variant="primary", size="md"), gr.Button("Stop", size="md")
    running = go.click(write, [text, *sampling.values()], text, **EVENT)
    stop.click(None, cancels=running, api_visibility="private")


def tokens_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase) -> None:
    spelled, most = _speller(tokenizer), min(generator.context_length or MOST_TOKENS, MOST_TOKENS)

    def view(text: str) -> str:
        with one_line_errors():
            ids = _encode(tokenizer, text, most)
            return tokens_html(token_predictions(generator.model, ids), [spelled(id) for id in ids], spelled)

    gr.Markdown("How likely the model found each token, after those before it. Point at one to see what it expected.")
    text = box(f"A text of up to {most} tokens", lines=3)
    button = gr.Button("Show", variant="primary", size="md")
    out = gr.HTML(legend(), min_height=260)
    gr.on([button.click, text.submit], view, text, out, **EVENT)


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

    def view_again(text: str, *places: int) -> str:
        return view(text, *places) if text.strip() else ""

    gr.Markdown("Where each token (a row) looks, among those before it and itself (the columns).")
    text = box(f"A text of up to {most} tokens", lines=2)
    with gr.Row():
        layer = gr.Slider(1, layers, 1, step=1, label="layer", buttons=[])
        head = gr.Slider(1, heads, 1, step=1, label="head", buttons=[])
    button = gr.Button("Show", variant="primary", size="md")
    out = gr.HTML(min_height=260)
    inputs = [text, layer, head]
    gr.on([button.click, text.submit], view, inputs, out, **EVENT)
    gr.on([layer.release, head.release], view_again, inputs, out, trigger_mode="always_last", **EVENT)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, most: int | None = None) -> list[int]:
    check(text, "text")
    ids = tokenizer("")["input_ids"] + encode_texts(tokenizer, [text])[0]
    if most is not None and len(ids) > most:
        raise ValueError(f"The text has {len(ids):,} tokens, and {most} are shown at most: shorten it.")
    return ids


def _speller(tokenizer: PreTrainedTokenizerBase):
    """How a token is written, by its id."""
    spelled = vocabulary_bytes(tokenizer)
    return lambda id: shown(spelled.get(id, b"?"))


async def _growing(generator: TextGenerator, choice: Choice) -> AsyncIterator[str]:
    """The text so far, again and again, and at last the whole text."""
    shown_at = 0.0
    yield ""
    async with contextlib.aclosing(generator.stream(choice)) as pieces:
        async for _ in pieces:
            if time.monotonic() > shown_at + SECONDS_BETWEEN:
                yield choice.text
                shown_at = time.monotonic()
    yield choice.text


def application(page: gr.Blocks, token: str) -> Callable:
    """The page as an ASGI application that answers those who have the token, which the browser keeps in a cookie."""
    page.has_launched = True  # mounted, it else takes whatever path a request names for a file that was dropped
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=SYSTEM_MONO)
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), page, "/", theme=theme, css=CSS + DOCUMENTS_CSS, footer_links=[],
        run_history=False, enable_monitoring=False, ssr_mode=False, show_error=True,
    )  # fmt: skip

    def admitted(scope) -> Callable:
        request = fastapi.Request(scope)
        cookie = f"folio-app-{request.scope['server'][1]}"  # cookies do not know ports
        if hmac.compare_digest(request.query_params.get("token", "").encode(), token.encode()):
            response = fastapi.responses.RedirectResponse("/", 303)
            response.set_cookie(cookie, token, httponly=True, samesite="lax")
            return response  # also if the cookie is there: a link within the page would load it again
        if hmac.compare_digest(request.cookies.get(cookie, "").encode(), token.encode()):
            return app
        if scope["path"] == "/manifest.json":  # browsers ask for it without cookies
            return fastapi.responses.JSONResponse({"name": "FolioGPT"})
        return fastapi.Response("Open the address that `folio app` printed: it has the token of this start.\n", 403)

    async def with_policy(scope, receive, send) -> None:
        async def add(message) -> None:
            if message["type"] == "http.response.start":
                policy = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message["headers"], *policy]
            await send(message)

        await (admitted(scope) if scope["type"] == "http" else app)(scope, receive, add)

    return with_policy
