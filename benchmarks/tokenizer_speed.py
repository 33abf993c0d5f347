"""BPE from scratch against the loop of the textbooks, and against the Rust of the `tokenizers` library.

    python -m benchmarks.tokenizer_speed
    python -m benchmarks.tokenizer_speed --only lines
    python -m benchmarks.tokenizer_speed --corpus shakespeare.txt --json tokenizer_speed.json

All three on one thread, in turns, within one run. The textbook loop counts all pairs of the text anew for every merge;
it is timed over its first merges, and the rest estimated at the same pace. A ratio above 1 means that ours is faster.
"""

import os

os.environ["RAYON_NUM_THREADS"] = "1"  # read when the library is loaded

import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from foliogpt.data.corpora import load_corpus
from foliogpt.tokenization import BPETokenizer

from .tables import parser, show, write

VOCAB, TIMED_MERGES, ROUNDS = 4096, 20, 5


def textbook(text: str, merges: int) -> None:
    """BPE as it is usually first written: count every pair, merge the most frequent, begin again."""
    ids = list(text.encode())
    for new in range(256, 256 + merges):
        first, second = Counter(pairwise(ids)).most_common(1)[0][0]
        merged, i = [], 0
        while i < len(ids):
            if i + 1 < len(ids) and ids[i] == first and ids[i + 1] == second:
                merged.append(new)
                i += 2
            else:
                merged.append(ids[i])
                i += 1
        ids = merged


def train_rust(text: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def seconds(jobs: dict[str, Callable]) -> dict[str, float]:
    """Median seconds of each job, in turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", default="python-manual", help="as of `folio pretrain`")
    options.add_argument("--only", choices=("speed", "lines"), help="measure this alone")
    chosen = options.parse_args()
    documents = load_corpus(chosen.corpus)
    text = "\n".join(text for split in documents.values() for text in split["text"])
    figures = {}
    if chosen.only != "lines":
        figures["speed"] = speed(text, chosen.corpus)
    if chosen.only != "speed":
        figures["lines"] = long_lines(text)
    write(chosen.json, figures)


def speed(text: str, corpus: str) -> list[dict]:
    start = time.perf_counter()
    textbook(text, TIMED_MERGES)
    slow = (time.perf_counter() - start) / TIMED_MERGES * (VOCAB - 256)
    ours, rust = BPETokenizer.train([text], VOCAB), train_rust(text)
    if ours.encode(text) != rust.encode(text).ids:
        raise ValueError("The two tokenizers give different ids: please report this text.")

    def encode():
        ours._cache.clear()  # as if for the first time
        ours.encode(text)

    training = seconds({"ours": lambda: BPETokenizer.train([text], VOCAB), "rust": lambda: train_rust(text)})
    encoding = seconds({"ours": encode, "rust": lambda: rust.encode(text)})
    rows = [
        {"job": "training", "ours s": training["ours"], "against": "textbook loop", "s": slow},
        {"job": "training", "ours s": training["ours"], "against": "tokenizers (Rust)", "s": training["rust"]},
        {"job": "encoding", "ours s": encoding["ours"], "against": "tokenizers (Rust)", "s": encoding["rust"]},
    ]
    for row in rows:
        row["ratio"] = row["s"] / row["ours s"]
    size = len(text.encode()) / 1e6
    show("BPE from scratch", rows, f"{corpus}, {size:.1f} MB, vocabulary {VOCAB:,}, one thread, {ROUNDS} rounds.")
    return rows


def long_lines(text: str) -> list[dict]:
    """A line of letters alone is one piece, in which everything may merge with everything, and nothing is cached."""
    ours, rust = BPETokenizer.train([text], VOCAB), train_rust(text)
    letters = "".join(character for character in text if character.isalpha())
    rows = []
    for megabytes in (1, 10, 50):
        line = (letters * (megabytes * 1_000_000 // len(letters) + 1))[: megabytes * 1_000_000]
        start = time.perf_counter()
        ids = ours.encode(line)
        row = {"line": f"{megabytes} MB", "ours s": time.perf_counter() - start}
        row["peak memory GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        if megabytes == 1 and ids != rust.encode(line).ids:
            raise ValueError("The two tokenizers give different ids: please report this text.")
        rows.append(row | {"tokens": f"{len(ids):,}"})
    show("A line without a space", rows, "Letters alone, BPE from scratch.")
    return rows


if __name__ == "__main__":
    main()
