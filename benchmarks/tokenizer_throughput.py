"""The tokenizer that checkpoints carry against the `tokenizers` library called by hand.

    python -m benchmarks.tokenizer_throughput
    python -m benchmarks.tokenizer_throughput --corpus shakespeare.txt --json throughput.json

Both in turns, within one run, on all cores. A ratio above 1 means that ours is faster; `cores` is processor time by
wall-clock time. Texts are encoded with `encode_texts`, in which a text cannot write a special token.
"""

import statistics
import time
from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from foliogpt.data.corpora import load_corpus
from foliogpt.tokenization import encode_texts, train_tokenizer
from foliogpt.tokenization.trained import SPECIAL_TOKENS

from .tables import parser, show, write

VOCAB, ROUNDS, DOCUMENT = 4096, 9, 4000  # DOCUMENT: characters


def train_by_hand(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def measure(jobs: dict[str, Callable]) -> dict[str, tuple[float, float]]:
    """Median seconds of each job in turns, and the cores it kept busy."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            start, cpu = time.perf_counter(), time.process_time()
            job()
            seconds = time.perf_counter() - start
            times[name].append((seconds, (time.process_time() - cpu) / seconds))
    return {name: tuple(map(statistics.median, zip(*pairs, strict=True))) for name, pairs in times.items()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", default="python-manual", help="as of `folio pretrain`")
    chosen = options.parse_args()
    text = "\n".join(text for split in load_corpus(chosen.corpus).values() for text in split["text"])
    documents = [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]
    tokenizer, by_hand = train_tokenizer(documents, VOCAB, show_progress=False), train_by_hand(documents)
    if encode_texts(tokenizer, documents) != [encoding.ids for encoding in by_hand.encode_batch(documents)]:
        raise ValueError("The two tokenizers give different ids: please report this text.")

    size, rows = len(text.encode()) / 1e6, []
    jobs = {
        "training": (lambda: train_tokenizer(documents, VOCAB, show_progress=False), lambda: train_by_hand(documents)),
        "encoding": (
            lambda: encode_texts(tokenizer, documents),
            lambda: [encoding.ids for encoding in by_hand.encode_batch(documents)],
        ),
    }
    for job, (ours, theirs) in jobs.items():
        times = measure({"ours": ours, "theirs": theirs})
        row = {"job": job, "ours MB/s": size / times["ours"][0], "by hand MB/s": size / times["theirs"][0]}
        rows.append(row | {"ratio": times["theirs"][0] / times["ours"][0], "cores": times["ours"][1]})
    note = f"{chosen.corpus}, {size:.1f} MB in documents of {DOCUMENT:,} characters, vocabulary {VOCAB:,}"
    show("The production path", rows, f"{note}, {ROUNDS} rounds.")
    write(chosen.json, {"throughput": rows})


if __name__ == "__main__":
    main()
