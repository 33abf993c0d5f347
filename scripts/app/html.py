"""The token view and the attention map of `folio app` as HTML, in which all that comes from a text is escaped."""

import math
from html import escape

import torch

from ...evaluation.introspection import Prediction

LEAST = 1e-4  # a probability from which on a token is as surprising as it gets
LIKELY, UNLIKELY = (13, 148, 136), (234, 88, 12)  # teal and orange: told apart by people who see no red or green

CSS = """
.folio-title { display: flex; gap: 14px; align-items: baseline; padding: 4px 2px; }
.folio-title b { font-size: 1.5rem; letter-spacing: -0.01em; }
.folio-title span { color: var(--body-text-color-subdued); font-size: 0.9rem; }
.folio-heading { font-size: 0.95rem; }
.folio-slider { padding-top: 8px !important; padding-bottom: 4px !important; }
.folio-chat { display: flex; flex-direction: column; gap: 10px; padding: 6px 2px; }
.folio-chat > div { white-space: pre-wrap; overflow-wrap: anywhere; padding: 9px 14px; border-radius: 14px;
    max-width: 82%; line-height: 1.5; }
.folio-chat .user { align-self: flex-end; background: rgb(13, 148, 136); color: white;
    border-bottom-right-radius: 4px; }
.folio-chat .assistant { align-self: flex-start; background: var(--background-fill-secondary);
    border: 1px solid var(--border-color-primary); border-bottom-left-radius: 4px; }
.folio-chat .hint { align-self: center; color: var(--body-text-color-subdued); font-size: 0.85rem; }
.folio-tokens { line-height: 1.5; font-family: var(--font-mono); font-size: 0.95rem; }
/* inline-block: a line may end after each token, although none has a space that it could end at */
.folio-tokens .token { display: inline-block; margin: 3px 0; position: relative; padding: 2px 1px; border-radius: 4px;
    cursor: help; outline: none; border-right: 1px solid var(--background-fill-primary); white-space: pre; }
.folio-tokens .token:hover, .folio-tokens .token:focus { box-shadow: 0 0 0 2px var(--color-accent); z-index: 2; }
.folio-tokens .tip { display: none; position: absolute; left: 0; top: 100%; z-index: 9; min-width: 15rem;
    padding: 8px 12px; border-radius: 8px; background: var(--background-fill-primary);
    border: 1px solid var(--border-color-primary); box-shadow: 0 6px 24px rgba(0, 0, 0, 0.18); line-height: 1.6;
    color: var(--body-text-color); cursor: default; }
.folio-tokens .token:hover .tip, .folio-tokens .token:focus .tip { display: block; }
.folio-tokens .row { display: grid; grid-template-columns: 6.5rem 1fr 3.2rem; gap: 8px; align-items: center; }
.folio-tokens .row b { overflow: hidden; text-overflow: ellipsis; font-weight: 400; }
.folio-tokens .row.said b { font-weight: 700; }
.folio-tokens .row i { height: 8px; border-radius: 4px; background: rgb(13, 148, 136); min-width: 1px; }
.folio-tokens .row span { text-align: right; color: var(--body-text-color-subdued); }
.folio-legend { display: flex; gap: 10px; align-items: center; margin: 4px 0 14px; font-size: 0.85rem;
    color: var(--body-text-color-subdued); }
.folio-legend .bar { width: 180px; height: 10px; border-radius: 5px; }
.folio-map { overflow: auto; padding-bottom: 8px; }
.folio-map table { border-collapse: separate; border-spacing: 1px; font-family: var(--font-mono); font-size: 0.75rem;
    width: auto; border: none; }
.folio-map th { font-weight: 400; border: none; padding: 0 6px; white-space: pre; text-align: right;
    background: none; color: var(--body-text-color); }
.folio-map thead th { height: 6rem; vertical-align: bottom; padding: 0; text-align: left; }
.folio-map thead th div { width: 18px; writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
.folio-map td { width: 18px; min-width: 18px; height: 18px; padding: 0; border: none; border-radius: 3px; }
.folio-map td:hover { box-shadow: 0 0 0 2px var(--color-accent); }
"""


def chat_html(said: list[dict], forgotten: int = 0) -> str:
    """A chat; the first `forgotten` messages are not in the model's context any more."""
    if not said:
        return '<div class="folio-chat"><div class="hint">Say something.</div></div>'
    parts = []
    for index, message in enumerate(said):
        if index == forgotten > 0:
            parts.append('<div class="hint">What is above has no room in the context any more.</div>')
        text = escape(message["content"].strip("\n")) or "…"
        parts.append(f'<div class="{escape(message["role"])}">{text}</div>')
    return f'<div class="folio-chat">{"".join(parts)}</div>'


def legend() -> str:
    """The colours from likely to unlikely."""
    shades = ", ".join(_colour(LEAST**step) for step in (0, 0.25, 0.5, 0.75, 1))
    bar = f'<div class="bar" style="background: linear-gradient(to right, {shades})"></div>'
    return f'<div class="folio-legend">expected {bar} a surprise</div>'


def tokens_html(predictions: list[Prediction], names: list[str], spelled) -> str:
    """A text whose tokens are coloured by their probability, each with what the model expected.

    Args:
        names: how each token of the text is written.
        spelled: from an id to how that is written, for the tokens that were expected.
    """
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


def attention_html(weights: torch.Tensor, names: list[str]) -> str:
    """A heat map of attention weights (T, T): a row for each token that looks, a column for each that is looked at."""
    head = "".join(f"<th><div>{escape(name)}</div></th>" for name in names)
    rows = []
    for i, row in enumerate(weights.tolist()):
        cells = "".join(
            f'<td style="background: rgba(13, 148, 136, {0.06 + 0.94 * weight:.3f})" '
            f'title="{escape(names[i])} looks at {escape(names[j])}: {_percent(weight)}"></td>'
            for j, weight in enumerate(row[: i + 1])
        )
        rows.append(f"<tr><th>{escape(names[i])}</th>{cells}</tr>")
    return f'<div class="folio-map"><table><thead><tr><th></th>{head}</tr></thead>{"".join(rows)}</table></div>'


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}%" if probability >= 0.001 else "<0.1%".replace("<", "&lt;")


def _colour(probability: float) -> str:
    """Teal where the token was expected, orange where it was not, pale between; text stays readable on it."""
    surprise = min(math.log(max(probability, LEAST)) / math.log(LEAST), 1)
    red, green, blue = LIKELY if surprise < 0.5 else UNLIKELY
    return f"rgba({red}, {green}, {blue}, {abs(surprise - 0.5) * 2 * 0.62 + 0.04:.2f})"
