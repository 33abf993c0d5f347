"""The page of `folio app`: one function per tab. One generator serves all requests, one after another."""

import contextlib
import copy
import functools
import hmac
import time
from collections.abc import AsyncIterator, Callable
from html import escape
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ...evaluation.introspection import attention_weights, head_names, token_predictions, with_attentions
from ...serving.chat import Chat, end_of_turn
from ...serving.generator import Choice, TextGenerator, generation_config
from ...tokenization import encode_chat, encode_texts
from ...tokenization.inspection import shown, vocabulary_bytes
from .documents import documents_tab
from .html import attention_html, chat_html, heads_html, legend, tokens_html, written_html
from .parts import EVENT, box, check, fastapi, gr, one_line_errors, run_controls

HERE = Path(__file__).parent
MAX_TOKENS = 512  # in the token view
MAX_ATTENTION_TOKENS = 48  # in the attention map
UPDATE_SECONDS = 0.1  # between updates of a streamed text: small models are faster than browsers
MAX_QUEUE = 64  # waiting requests; others are rejected
# The page sends requests to this server only, whatever a text contains.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
FONTS = {"font": ["ui-sans-serif", "system-ui", "sans-serif"], "font_mono": ["ui-monospace", "Consolas", "monospace"]}
CHATS = ["What can you help me with?", "Name three large cities of Europe.", "Explain in one sentence why it rains."]
BEGINNINGS = ["The for statement", "Once upon a time", "ROMEO:", "def read(path):"]
TEXTS = ["To be, or not to be, that is the question.", "The for statement is used to iterate over the elements.",
         "The capital of France is Paris. The capital of Italy is Rome."]  # fmt: skip
REPEATED = ["one two three four, one two three four, one two", "The cat sat on the mat. The cat sat on the",
            "Mary and John went out. John gave Mary"]  # fmt: skip


def build_page(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, title: str = "FolioGPT") -> gr.Blocks:
    """Build the page for one model and its tokenizer; `application` makes a server of it."""
    model, opened = generator.model, "Write" if why_no_chats(generator, tokenizer) else "Chat"
    tabs = {"Chat": chat_tab, "Write": write_tab, "Documents": documents_tab}
    tabs |= {"Tokens": tokens_tab, "Attention": attention_tab}
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True) as page:
        context = f", context {generator.context_length:,} tokens" if generator.context_length else ""
        about = f"{type(model).__name__}, {model.num_parameters():,} parameters{context}"
        gr.HTML(f'<div class="folio-title"><h1>{escape(title)}</h1><span>{about}</span></div>')
        sampling = sampling_controls(generator)
        with gr.Row():  # on a phone, the right column is below the left one
            with gr.Column(scale=3, min_width=320), gr.Tabs(selected=opened, overflow_behavior="wrap"):
                for name, draw in tabs.items():
                    with gr.Tab(name, id=name, elem_id=f"folio-{name.lower()}"):
                        if forget := draw(generator, copy.deepcopy(tokenizer), sampling):
                            page.unload(forget)
            with gr.Column(min_width=280, elem_classes="folio-settings"):
                gr.HTML("<h2>How it answers</h2>")
                for control in sampling.values():
                    control.render()
    return page.queue(max_size=MAX_QUEUE, api_open=False)


def why_no_chats(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase) -> str:
    """Explain why a model cannot chat; "" if it can. A base model may have a chat template, too."""
    ends = generator.model.generation_config.eos_token_id
    ends = [tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]
    why = "it has no chat template"
    if tokenizer.chat_template:
        if (end := end_of_turn(tokenizer, encode_chat)) is None or end in ends:
            return ""
        why = f"the `eos_token_id` of its generation config is not {end}, the end of a turn"
    remedy = "`folio finetune sft` makes a model that chats of it."
    return f"This model has not learned to chat: {why}. It continues texts: see *Write*. {remedy}"


def sampling_controls(generator: TextGenerator) -> dict[str, gr.Component]:
    """Make the generation options, with transformers' names and the checkpoint's values."""
    config = generator.model.generation_config
    longest = min(generator.context_length or 2048, 2048) - 1

    def slider(name: str, low: float, high: float, value: float | None, step: float) -> gr.Slider:
        value = low if value is None else min(max(value, low), high)
        return gr.Slider(low, high, value, step=step, label=name, buttons=[], elem_classes="folio-slider", render=False)

    return {
        "do_sample": gr.Checkbox(bool(config.do_sample), label="do_sample", container=False, render=False),
        "temperature": slider("temperature", 0.05, 2, config.temperature or 1.0, 0.05),
        "top_k": slider("top_k (0: all)", 0, 200, config.top_k, 1),
        "top_p": slider("top_p", 0.05, 1, config.top_p or 1.0, 0.01),
        "min_p": slider("min_p", 0, 0.5, config.min_p, 0.01),
        "repetition_penalty": slider("repetition_penalty", 1, 2, config.repetition_penalty, 0.01),
        "num_beams": slider("num_beams", 1, 8, config.num_beams, 1),
        "max_new_tokens": slider("max_new_tokens", 1, longest, min(200, longest // 2), 1),
    }


def chat_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, sampling: dict) -> None:
    if why := why_no_chats(generator, tokenizer):
        gr.Markdown(why)
        return
    chat = Chat(generator, tokenizer, encode_chat)

    async def reply(message: str, turns: list[dict], system: str, *values) -> AsyncIterator[tuple[str, list, str]]:
        with one_line_errors():
            check(message, "message")
            turns = [*turns, {"role": "user", "content": message}]
            before = [{"role": "system", "content": system}] if system.strip() else []
            choice, forgotten = chat.answer([*before, *turns], **dict(zip(sampling, values, strict=True)))
            async for text in _stream_text(generator, choice):
                answered = [*turns, {"role": "assistant", "content": text}]
                yield "", answered, chat_html(answered, forgotten)

    turns, out = gr.State([]), gr.HTML(chat_html([]), autoscroll=True, min_height=240, max_height=560)
    message = box("Message", container=False)
    with gr.Accordion("System prompt", open=False, render=False) as accordion:
        system = box("Instructions for the model, before the chat", value="")
    inputs, outputs, names = [turns, system, *sampling.values()], [message, turns, out], ["Send", "Stop", "New chat"]
    running, buttons = run_controls(reply, message, names, inputs, outputs, CHATS, [])
    accordion.render()
    buttons[2].click(lambda: ([], chat_html([])), outputs=[turns, out], cancels=running, api_visibility="private")


def write_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, sampling: dict) -> None:
    async def write(text: str, *values) -> AsyncIterator[tuple[str, str]]:
        with one_line_errors():
            ids, options = _encode(tokenizer, text), dict(zip(sampling, values, strict=True))
            new, context = options.pop("max_new_tokens"), generator.context_length
            room = new if context is None else context - len(ids)
            if room < 1:
                raise ValueError(f"The text has {len(ids):,} tokens, the context {context:,}: shorten it.")
            config = generation_config(generator.model, min(new, room), **options)
            async for grown in _stream_text(generator, Choice(ids, config, generator.stop_strings)):
                yield text + grown, written_html(text, grown)

    whole, out = gr.State(""), gr.HTML(render=False)
    text = box("A text for the model to continue", lines=4, max_lines=24)
    names = ["Continue", "Stop", "Edit"]
    running, buttons = run_controls(write, text, names, list(sampling.values()), [whole, out], BEGINNINGS, ["", ""])
    out.render()
    moved = {"inputs": [text, whole], "outputs": [text, whole, out], "cancels": running, "api_visibility": "private"}
    buttons[2].click(lambda text, whole: (whole or text, "", ""), **moved)


def tokens_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, _: dict) -> None:
    token_text, limit = _token_texts(tokenizer), min(generator.context_length or MAX_TOKENS, MAX_TOKENS)

    def view(text: str) -> str:
        with one_line_errors():
            ids = _encode(tokenizer, text, limit)
            return tokens_html(token_predictions(generator.model, ids), [token_text(id) for id in ids], token_text)

    gr.Markdown("The probability of each token after the tokens before it. Point at a token to see the alternatives.")
    text, out = box(f"A text of up to {limit} tokens", max_lines=8), gr.HTML(render=False)
    run_controls(view, text, ["Show"], [], [out], TEXTS, [legend()])
    out.render()


def attention_tab(generator: TextGenerator, tokenizer: PreTrainedTokenizerBase, _: dict) -> None:
    token_text, eager = _token_texts(tokenizer), with_attentions(generator.model)
    limit = min(generator.context_length or MAX_ATTENTION_TOKENS, MAX_ATTENTION_TOKENS)
    names = functools.cache(lambda: head_names(eager, generator.context_length))

    def view(text: str) -> tuple[tuple, str, str]:
        with one_line_errors():
            ids = _encode(tokenizer, text, limit)
            weights, tokens = attention_weights(eager, ids).cpu(), [token_text(id) for id in ids]
            large = attention_html(weights, tokens, min(names(), default=(0, 0)), names())
            return (weights, tokens), heads_html(weights, names()), large

    def enlarge(drawn: tuple, event: gr.EventData) -> str:
        with one_line_errors():
            layer, head = map(int, event.place.split())
            return attention_html(*drawn, (layer, head), names())

    gr.Markdown("The weights with which each token (a row) attends to the tokens before it and itself (the columns).")
    text, drawn = box(f"A text of up to {limit} tokens", max_lines=4), gr.State()
    on_load = (HERE / "heads.js").read_text(encoding="utf-8")
    small, large = gr.HTML(js_on_load=on_load, render=False), gr.HTML(render=False)
    run_controls(view, text, ["Show"], [], [drawn, small, large], REPEATED, ["", ""])
    with gr.Row():
        for scale, pictures in (1, small), (2, large):
            with gr.Column(scale=scale, min_width=300):
                pictures.render()
    small.click(enlarge, drawn, large, trigger_mode="always_last", **EVENT)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, limit: int | None = None) -> list[int]:
    check(text, "text")
    ids = tokenizer("")["input_ids"] + encode_texts(tokenizer, [text])[0]
    if limit is not None and len(ids) > limit:
        raise ValueError(f"The text has {len(ids):,} tokens, and {limit} are shown at most: shorten it.")
    return ids


def _token_texts(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    vocabulary = vocabulary_bytes(tokenizer)
    return lambda id: shown(vocabulary.get(id, b"?"))


async def _stream_text(generator: TextGenerator, choice: Choice) -> AsyncIterator[str]:
    """Yield the text so far, at most every UPDATE_SECONDS, and at the end all of it."""
    shown_at = 0.0
    yield ""
    async with contextlib.aclosing(generator.stream(choice)) as pieces:
        async for _ in pieces:
            if time.monotonic() > shown_at + UPDATE_SECONDS:
                yield choice.text
                shown_at = time.monotonic()
    yield choice.text


def application(page: gr.Blocks, token: str) -> Callable:
    """Return the page as an ASGI application for clients with the token, which the browser keeps in a cookie."""
    page.has_launched = True  # otherwise a mounted page accepts any path in a request as an uploaded file
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", **FONTS)
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), page, "/", theme=theme, css_paths=HERE / "page.css",
        footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, show_error=True,
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
