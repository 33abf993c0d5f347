"""The chat, generated texts, tokens and attention of `folio app` as HTML, in which all texts are escaped."""

import base64
import io
import math
from collections.abc import Callable
from html import escape

import torch

from ...evaluation.introspection import Prediction

MIN_PROBABILITY = 1e-4  # of the color scale: rarer tokens have the same color
LIKELY, UNLIKELY = (13, 148, 136), (234, 88, 12)  # teal and orange, which people who are color-blind can distinguish


def chat_html(turns: list[dict], forgotten: int = 0) -> str:
    """Draw a chat; the first `forgotten` messages are not in the model's context any more."""
    if not turns:
        return '<div class="folio-chat"><div class="folio-hint">Say something.</div></div>'
    parts = []
    for index, message in enumerate(turns):
        if index == forgotten > 0:
            parts.append('<div class="folio-hint">The context has no room for the messages above.</div>')
        text = escape(message["content"].strip("\n")) or "…"
        parts.append(f'<div class="{escape(message["role"])}">{text}</div>')
    return f'<div class="folio-chat">{"".join(parts)}</div>'


def written_html(text: str, continuation: str) -> str:
    """Draw a text, with the model's continuation highlighted."""
    return f'<div class="folio-written">{escape(text)}<mark>{escape(continuation)}</mark></div>'


def legend() -> str:
    """Draw the colors from likely to unlikely."""
    shades = ", ".join(_color(MIN_PROBABILITY**step) for step in (0, 0.25, 0.5, 0.75, 1))
    bar = f'<div class="bar" style="background: linear-gradient(to right, {shades})"></div>'
    return f'<div class="folio-legend">expected {bar} a surprise</div>'


def tokens_html(predictions: list[Prediction], texts: list[str], token_text: Callable[[int], str]) -> str:
    """Draw the texts of tokens, colored by probability, each with the most likely alternatives."""
    parts = [_token(each, text, token_text) for each, text in zip(predictions, texts, strict=True)]
    known = [each.probability for each in predictions if each.probability is not None]
    loss = sum(-math.log(max(probability, 1e-30)) for probability in known) / max(len(known), 1)
    figures = f"{len(predictions):,} tokens, loss {loss:.2f}, perplexity {math.exp(min(loss, 50)):,.1f}"
    return f'{legend()}<div class="folio-tokens">{"".join(parts)}</div><div class="folio-legend">{figures}</div>'


def _token(each: Prediction, text: str, token_text: Callable[[int], str]) -> str:
    color, tip = "", "nothing comes before it"
    if each.probability is not None:
        color = f' style="background: {_color(each.probability)}"'
        tip = "".join(
            f'<span class="row{" said" if id == each.id else ""}"><b>{escape(token_text(id))}</b>'
            f'<i style="width: {100 * probability:.0f}%"></i><span>{_percent(probability)}</span></span>'
            for id, probability in {**dict(each.top_tokens), each.id: each.probability}.items()
        )
    new_line = "<br>" if text.endswith("⏎") else ""
    return f'<span class="token" tabindex="0"{color}>{escape(text)}<span class="tip">{tip}</span></span>{new_line}'


def heads_html(weights: torch.Tensor, names: dict[tuple[int, int], str]) -> str:
    """Draw all heads (layers, heads, T, T) as small images to click, with the initials of their names."""
    rows = []
    for layer, heads in enumerate(weights):
        cells = ""
        for head, one in enumerate(heads):
            label, place = _head_title((layer, head), names), f'data-place="{layer} {head}"'
            picture = f'<img alt="" src="data:image/png;base64,{_png(one)}">{names.get((layer, head), "")[:1]}'
            cells += f'<button {place} title="{label}" aria-label="{label}">{picture}</button>'
        rows.append(f'<div class="layer"><span>{layer + 1}</span>{cells}</div>')
    found = ", ".join(f"{name[0]}: {name}" for name in sorted(set(names.values())))
    hint = f"A row for each layer, its heads side by side. Click one, or use the arrow keys. {found}"
    return f'<div class="folio-hint">{hint}</div><div class="folio-heads">{"".join(rows)}</div>'


def _png(weights: torch.Tensor) -> str:
    """Encode weights (T, T) as an image in base64, in which larger weights are more opaque."""
    from PIL import Image  # comes with Gradio

    opaque = (255 * weights.sqrt()).round()[..., None]
    pixels = torch.cat([torch.tensor(LIKELY).expand(*weights.shape, 3), opaque], dim=-1).byte()
    Image.fromarray(pixels.numpy()).save(file := io.BytesIO(), "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _head_title(place: tuple[int, int], names: dict[tuple[int, int], str]) -> str:
    return f"layer {place[0] + 1}, head {place[1] + 1}" + (f": {names[place]}" if place in names else "")


def attention_html(attentions: torch.Tensor, tokens: list[str], place: tuple[int, int], names: dict) -> str:
    """Draw a heat map of the layer and head at `place`: a row for each query token, a column for each key token."""
    head = "".join(f"<th><div>{escape(token)}</div></th>" for token in tokens)
    rows = []
    for i, row in enumerate(attentions[place].tolist()):
        cells = "".join(
            f'<td style="background: rgba(13, 148, 136, {0.06 + 0.94 * weight:.3f})" '
            f'title="{escape(tokens[i])} attends to {escape(tokens[j])}: {_percent(weight)}"></td>'
            for j, weight in enumerate(row[: i + 1])
        )
        rows.append(f"<tr><th>{escape(tokens[i])}</th>{cells}</tr>")
    title = _head_title(place, names)
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="folio-map" role="region" aria-label="{title}" tabindex="0"><b>{title}</b>{table}</div>'


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}%" if probability >= 0.001 else "&lt;0.1%"


def _color(probability: float) -> str:
    """Return teal for likely tokens, orange for unlikely ones, pale between, so that text stays readable."""
    surprise = min(math.log(max(probability, MIN_PROBABILITY)) / math.log(MIN_PROBABILITY), 1)
    red, green, blue = LIKELY if surprise < 0.5 else UNLIKELY
    return f"rgba({red}, {green}, {blue}, {abs(surprise - 0.5) * 2 * 0.62 + 0.04:.2f})"
