"""Going on from a checkpoint with other text: what is learnt, what is forgotten, and what replay and rates change.

    python -m benchmarks.continuing --corpus shakespeare.txt
    python -m benchmarks.continuing --corpus shakespeare.txt --only rates

A nano model is pretrained on the Python manual and goes on with the text of --corpus. Bits per byte are those of the
held-out parts of both texts. It takes about ten minutes on one core.
"""

import tempfile
from itertools import product
from pathlib import Path

from foliogpt.checkpoints import load_model
from foliogpt.data.arguments import CorpusArguments
from foliogpt.data.packed_corpus import pack_corpora
from foliogpt.evaluation.bits_per_byte import bits_per_byte, total_loss
from foliogpt.jobs.report import Stages
from foliogpt.training import ModelArguments, PretrainingArguments, pretrain

from .tables import parser, show, write

OLD, BLOCK, VOCABULARY = "python-manual", 128, 2048
SHARES = (1.0, 0.3, 0.1, 0.03)  # of the rates of a model with fresh weights


def train(folder: Path, corpus: CorpusArguments, model: ModelArguments, steps: int, share: float | None = None) -> Path:
    rates = {} if share is None else dict.fromkeys(("learning_rate", "adam_learning_rate"), 0.02 * share)
    args = PretrainingArguments(output_dir=str(folder), max_steps=steps, eval_strategy="no", bf16=False, **rates)
    pretrain(corpus, model, args, stages=Stages(silent=True))
    return folder


def bits(folder: Path, new: str) -> list[float]:
    """Bits per byte on the held-out parts of the old and the new text."""
    model, _ = load_model(str(folder))
    data = pack_corpora(CorpusArguments([OLD, new]), str(folder), VOCABULARY, BLOCK, Stages(silent=True))
    found = []
    for corpus, blocks in zip(data.corpora, data.validation_blocks, strict=True):
        size = sum(len(text.encode()) for text in corpus.validation["text"])
        found.append(bits_per_byte(total_loss(model, blocks, data.collator)[0], size))
    return found


def row(name: str, folder: Path, new: str) -> dict:
    old_bits, new_bits = bits(folder, new)
    print(f"{name}: {old_bits:.3f} {new_bits:.3f}", flush=True)
    return {"run": name, "old text": f"{old_bits:.3f}", "new text": f"{new_bits:.3f}"}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", required=True, help="the new text")
    options.add_argument("--only", nargs="+", choices=["replay", "rates"], default=["replay", "rates"])
    options.add_argument("--steps", type=int, nargs=2, default=[400, 200], help="of the old and the new text")
    chosen = options.parse_args()
    new, (before, after) = chosen.corpus, chosen.steps
    shape, found = {"vocab_size": VOCABULARY, "block_size": BLOCK}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = train(folder / "base", CorpusArguments(OLD), ModelArguments(**shape), before)
        model = ModelArguments(init_from=str(base), **shape)
        first = row("before", base, new)
        if "replay" in chosen.only:
            mixed = CorpusArguments([new, OLD], corpus_weights=[0.75, 0.25])
            scratch = ModelArguments(tokenizer=str(base), **shape)
            runs = {
                "the new text": train(folder / "new", CorpusArguments(new), model, after),
                "the new text and 25 % of the old": train(folder / "mixed", mixed, model, after),
                "the new text with fresh weights": train(folder / "fresh", CorpusArguments(new), scratch, after),
            }
            found["replay"] = [first, *(row(name, run, new) for name, run in runs.items())]
            show("Forgetting and replay", found["replay"], f"{before} and {after} steps.")
        if "rates" in chosen.only:
            found["rates"] = [first]
            mixed = CorpusArguments([new, OLD], corpus_weights=[0.75, 0.25])
            for share, (name, corpus) in product(SHARES, {"": CorpusArguments(new), ", 25 % replay": mixed}.items()):
                run = train(folder / f"rate-{share}{name}", corpus, model, after, share)
                found["rates"].append(row(f"{share:g} of the rates{name}", run, new))
            show("Rates of continued training", found["rates"], f"{before} and {after} steps.")
    write(chosen.json, found)


if __name__ == "__main__":
    main()
