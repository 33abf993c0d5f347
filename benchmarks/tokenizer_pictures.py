"""The picture of docs/tokenizers.md: how a tokenizer cuts a text, as a terminal shows it.

    python -m benchmarks.tokenizer_pictures --corpus shakespeare.txt --output_dir docs

Needs matplotlib: pip install 'foliogpt[plots]'.
"""

import argparse
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from foliogpt.data.corpora import load_corpus
from foliogpt.tokenization import train_tokenizer
from foliogpt.tokenization.inspection import cells

TEXT = "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sün. 🌞"
ESCAPE = re.compile(r"\x1b\[([\d;]*)m")
LEVELS = (0, 95, 135, 175, 215, 255)
BACKGROUND, WHITE, DIM = "#1c1c1c", "#ffffff", "#9e9e9e"
COLUMNS = 88


def rgb(code: int) -> tuple[float, ...]:
    """A colour of xterm's cube of 216."""
    red, rest = divmod(code - 16, 36)
    return tuple(LEVELS[level] / 255 for level in (red, *divmod(rest, 6)))


def terminal(text: str, path: Path) -> None:
    """Draw text with colour codes as a terminal does."""
    lines = text.splitlines()
    figure = plt.figure(figsize=(COLUMNS * 0.1, len(lines) * 0.24 + 0.3), facecolor=BACKGROUND)
    axes = figure.add_axes((0.01, 0, 0.98, 1))
    axes.set(xlim=(0, COLUMNS), ylim=(len(lines) + 0.4, -0.6))
    axes.axis("off")
    for y, line in enumerate(lines):
        x, codes = 0, ""
        for part, change in zip(ESCAPE.split(line)[::2], [*ESCAPE.split(line)[1::2], ""], strict=True):
            if "48;5;" in codes:
                axes.add_patch(plt.Rectangle((x, y), len(part), 0.9, color=rgb(int(codes.split(";")[-1]))))
            for offset, character in enumerate(part):
                colour = DIM if codes == "2" else WHITE
                middle = (x + offset + 0.5, y + 0.48)
                axes.text(*middle, character, color=colour, family="monospace", size=9, ha="center", va="center")
            x, codes = x + len(part), change
    figure.savefig(path, dpi=110, facecolor=BACKGROUND)
    plt.close(figure)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--corpus", default="python-manual", help="as of `folio pretrain`")
    options.add_argument("--output_dir", type=Path, default=Path("docs"))
    chosen = options.parse_args()
    tokenizer = train_tokenizer(load_corpus(chosen.corpus)["train"]["text"], 4096, show_progress=False)
    terminal(cells(tokenizer, TEXT, 200, colors=True, width=COLUMNS), chosen.output_dir / "tokenizer-inspect.png")


if __name__ == "__main__":
    main()
