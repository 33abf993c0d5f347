"""The chat, written texts, tokens and attention of `folio app` as HTML, in which all that a text holds is escaped."""

import base64
import io
import math
from html import escape

import torch

from ...evaluation.introspection import Prediction

LEAST = 1e-4  # a probability from which on a token is as surprising as it gets
LIKELY, UNLIKELY = (13, 148, 136), (234, 88, 12)  # teal and orange: told apart by people who see no red or green


def chat_html(said: list[dict], forgotten: int = 0) -> str:
    """A chat; the first `forgotten` messages are not in the model's context any more."""
    if not said:
        return '<div class="folio-chat"><div class="folio-hint">Say something.</div></div>'
    parts = []
    for index, message in enumerate(said):
        if index == forgotten > 0:
            parts.append('<div class="folio-hint">What is above has no room in the context any more.</div>')
        text = escape(message["content"].strip("\n")) or "…"
        parts.append(f'<div class="{escape(message["role"])}">{text}</div>')
    return f'<div class="folio-chat">{"".join(parts)}</div>'


def written_html(text: str, continuation: str) -> str:
    """A text with what the model has added to it, which is set off."""
    return f'<div class="folio-written">{escape(text)}<mark>{escape(continuation)}</mark></div>'


def legend() -> str:
    """The colors from likely to unlikely."""
    shades = ", ".join(_colour(LEAST**step) for step in (0, 0.25, 0.5, 0.75, 1))
    bar = f'<div class="bar" style="background: linear-gradient(to right, {shades})"></div>'
    return f'<div class="folio-legend">expected {bar} a surprise</div>'


def tokens_html(predictions: list[Prediction], names: list[str], spelled) -> str:
    """A text, its tokens spelled `names` and colored by probability, with what the model expected, by `spelled(id)`."""
    parts = [_token(each, name, spelled) for each, name in zip(predictions, names, strict=True)]
    known = [each.probability for each in predictions if each.probability is not None]
    loss = sum(-math.log(max(probability, 1e-30)) for probability in known) / max(len(known), 1)
    figures = f"{len(predictions):,} tokens, loss {loss:.2f}, perplexity {math.exp(min(loss, 50)):,.1f}"
    return f'{legend()}<div class="folio-tokens">{"".join(parts)}</div><div class="folio-legend">{figures}</div>'


def _token(each: Prediction, name: str, spelled) -> str:
    if each.probability is None:
        return f'<span class="token" tabindex="0">{escape(name)}<span class="tip">nothing comes before it</span></span>'
    rows = [(id, spelled(id), probability) for id, probability in each.likeliest]
    if each.id not in [id for id, _ in each.likeliest]:
        rows.append((each.id, name, each.probability))
    tip = "".join(
        f'<span class="row{" said" if id == each.id else ""}"><b>{escape(text)}</b>'
        f'<i style="width: {100 * probability:.0f}%"></i><span>{_percent(probability)}</span></span>'
        for id, text, probability in rows
    )
    ends_line = "<br>" if name.endswith("⏎") else ""
    colour = f'style="background: {_colour(each.probability)}"'
    return f'<span class="token" tabindex="0" {colour}>{escape(name)}<span class="tip">{tip}</span></span>{ends_line}'


def heads_html(weights: torch.Tensor, names: dict[tuple[int, int], str]) -> str:
    """All heads (layers, heads, T, T) as small pictures to click, with the initials of the names that some have."""
    rows = []
    for layer, heads in enumerate(weights):
        cells = ""
        for head, one in enumerate(heads):
            label, place = _head_title((layer, head), names), f'data-place="{layer} {head}"'
            picture = f'<img alt="" src="data:image/png;base64,{_png(one)}">{names.get((layer, head), "")[:1]}'
            cells += f'<button {place} title="{label}" aria-label="{label}">{picture}</button>'
        rows.append(f'<div class="layer"><span>{layer + 1}</span>{cells}</div>')
    found = ", ".join(f"{name[0]}: {name}" for name in sorted(set(names.values())))
    said = f"A row for each layer, its heads side by side. Click one, or use the arrow keys. {found}"
    return f'<div class="folio-hint">{said}</div><div class="folio-heads">{"".join(rows)}</div>'


def _png(weights: torch.Tensor) -> str:
    """Weights (T, T) as a picture in base64: the larger, the more opaque."""
    from PIL import Image  # comes with Gradio

    opaque = (255 * weights.sqrt()).round()[..., None]
    pixels = torch.cat([torch.tensor(LIKELY).expand(*weights.shape, 3), opaque], dim=-1).byte()
    Image.fromarray(pixels.numpy()).save(file := io.BytesIO(), "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _head_title(place: tuple[int, int], names: dict[tuple[int, int], str]) -> str:
    return f"layer {place[0] + 1}, head {place[1] + 1}" + (f": {names[place]}" if place in names else "")


def attention_html(attentions: torch.Tensor, tokens: list[str], place: tuple[int, int], names: dict) -> str:
    """A heat map of the layer and head at `place`: a row for each token that looks, a column for each looked at."""
    head = "".join(f"<th><div>{escape(token)}</div></th>" for token in tokens)
    rows = []
    for i, row in enumerate(attentions[place].tolist()):
        cells = "".join(
            f'<td style="background: rgba(13, 148, 136, {0.06 + 0.94 * weight:.3f})" '
            f'title="{escape(tokens[i])} looks at {escape(tokens[j])}: {_percent(weight)}"></td>'
            for j, weight in enumerate(row[: i + 1])
        )
        rows.append(f"<tr><th>{escape(tokens[i])}</th>{cells}</tr>")
    title = _head_title(place, names)
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="folio-map" role="region" aria-label="{title}" tabindex="0"><b>{title}</b>{table}</div>'


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}%" if probability >= 0.001 else "<0.1%".replace("<", "&lt;")


def _colour(probability: float) -> str:
    """Teal where the token was expected, orange where it was not, pale between; text stays readable on it."""
    surprise = min(math.log(max(probability, LEAST)) / math.log(LEAST), 1)
    red, green, blue = LIKELY if surprise < 0.5 else UNLIKELY
    return f"rgba({red}, {green}, {blue}, {abs(surprise - 0.5) * 2 * 0.62 + 0.04:.2f})"
