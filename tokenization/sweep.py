"""How large a vocabulary should be: bytes per token on held-out text against its size."""

from collections.abc import Iterable
from pathlib import Path

from ..jobs.plotting import pyplot
from .inspection import inspect
from .trained import train_sizes

VOCAB_SIZES = (300, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)


def sweep(train: Iterable[str], held_out: str, vocab_sizes: Iterable[int] = VOCAB_SIZES) -> list[dict]:
    """Train a tokenizer of each size, the last one the largest that the text supports, and try it on held-out text.

    Returns for each `vocab_size` its `bytes_per_token`, `tokens_per_word`, and `vocab_used`, the share that occurs.
    Raises ValueError if a size is too small, or there is no held-out text.
    """
    if not held_out:
        raise ValueError("There is no held-out text: give a larger corpus.")
    rows = []
    for tokenizer in train_sizes(train, vocab_sizes):
        found = inspect(tokenizer, held_out, "")
        rows.append(
            {
                "vocab_size": len(tokenizer),
                "bytes_per_token": found.num_bytes / found.tokens,
                "tokens_per_word": found.tokens / max(found.words, 1),
                "vocab_used": found.used / len(tokenizer),
            }
        )
    return rows


def plot(rows: list[dict], path: str | Path, title: str) -> None:
    """Draw bytes per token, and the share in use, by the vocabulary's size; raises ImportError without matplotlib."""
    plt = pyplot("The plot")
    sizes = [row["vocab_size"] for row in rows]
    figure, (length, used) = plt.subplots(
        2, 1, sharex=True, figsize=(7, 4.5), height_ratios=[3, 1.5], layout="constrained"
    )
    length.plot(sizes, [row["bytes_per_token"] for row in rows], "o-")
    length.set(ylabel="bytes per token", title=title, ylim=(0, None))
    used.plot(sizes, [100 * row["vocab_used"] for row in rows], "o-", color="gray")
    used.set(xlabel="vocabulary", ylabel="% used", xscale="log", ylim=(0, 105))
    used.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
    used.minorticks_off()
    for axes in (length, used):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
