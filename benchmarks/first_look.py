"""The first picture of the README: a text, the probabilities of its tokens, and a cited answer, after a quickstart.

    python -m benchmarks.first_look --model runs/quickstart

Needs chromium, chromedriver, and the extras: pip install 'foliogpt[app,rag,dev]'.
"""

import argparse
import sys
import tempfile
import textwrap
from html import escape
from pathlib import Path
from pydoc_data.topics import topics

import torch
import transformers

from foliogpt.checkpoints import load_model
from foliogpt.evaluation.introspection import token_predictions
from foliogpt.rag import Rag
from foliogpt.scripts.app.html import tokens_html, written_html
from foliogpt.tokenization.inspection import shown, vocabulary_bytes

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "scripts"))
from chromium import chromium  # noqa: E402

PROMPT, QUESTION = "The for statement", "When is the else clause of a for loop executed?"
TEXT = "The for statement is used to iterate over the elements of a sequence (such as a string, tuple or list)."
STYLE = """
body { margin: 0; width: 1200px; display: flex; gap: 20px; padding: 20px; box-sizing: border-box; background: #fff;
  font: 15px/1.5 sans-serif; color: #1e293b }
section { flex: 1; border: 1px solid #e2e8f0; border-radius: 10px; padding: 16px }
h2 { font-size: 15px; margin: 0 0 10px; color: #0d9488 }
.token .tip { background: #fff; z-index: 2 }
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="runs/quickstart")
    options.add_argument("--output", default=str(ROOT / "docs" / "first-look.png"))
    chosen = options.parse_args()
    model, tokenizer = load_model(chosen.model)
    transformers.set_seed(0)
    with torch.no_grad():
        ids = model.generate(**tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=60)[0]
    written = tokenizer.decode(ids, skip_special_tokens=True).removeprefix(PROMPT)
    spelled, known = vocabulary_bytes(tokenizer), tokenizer(TEXT)["input_ids"]
    names = [shown(spelled[id]) for id in known]
    tokens = tokens_html(token_predictions(model, known), names, lambda id: shown(spelled.get(id, b"?")))
    with tempfile.TemporaryDirectory() as folder, Rag.open(folder + "/index") as rag:
        document = Path(folder, "for.txt")
        document.write_text(topics["for"], encoding="utf-8")
        rag.sync(document)
        answer = rag.answer(QUESTION)
    quoted = "<br>".join(map(escape, answer.text.splitlines()))
    quotes = [escape(textwrap.shorten(each.quote, 80, placeholder=" ...")) for each in answer.citations]
    cited = "<br>".join(f"<small>[{n}] {document.name}: {quote}</small>" for n, quote in enumerate(quotes, 1))
    style = (ROOT / "scripts" / "app" / "page.css").read_text(encoding="utf-8") + STYLE
    cards = {"It writes": written_html(PROMPT, written), "You see how likely each token was": tokens,
             "It cites your documents": f"<b>{QUESTION}</b><p>{quoted}</p>{cited}"}  # fmt: skip
    body = "".join(f"<section><h2>{title}</h2>{html}</section>" for title, html in cards.items())
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as page, chromium(1240, 760) as driver:
        page.write(f'<!doctype html><meta charset="utf-8"><style>{style}</style>{body}')
        page.flush()
        driver.get(f"file://{page.name}")
        driver.find_elements("css selector", ".token")[11].click()
        driver.find_element("css selector", "body").screenshot(chosen.output)


if __name__ == "__main__":
    main()
