"""The data of a pretraining run: corpora, read, split, tokenized, packed and mixed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import datasets
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..jobs.processes import broadcast_from_main, main_process_first
from ..jobs.report import Stages, amount
from ..tokenization import load_tokenizer, train_char_tokenizer, train_tokenizer
from .arguments import CorpusArguments
from .corpora import corpus_bytes, load_corpus
from .packing import PackedCollator, PackedStream, hash_of, pack
from .streams import InfiniteMixture

STREAMED_VALIDATION = 1000  # documents that are held out of a stream


@dataclass
class Corpus:
    """Two splits of documents. The training split of a stream has no known size."""

    name: str
    train: Dataset | IterableDataset
    validation: Dataset

    @cached_property
    def fingerprints(self) -> tuple[str | None, str | None]:
        """Hashes of the documents in the two splits; None for a stream."""
        if isinstance(self.train, IterableDataset):
            return None, None
        splits = (self.train, self.validation)
        train, validation = (hash_of(repr((row["name"], row["text"])) for row in split) for split in splits)
        return train, validation


@dataclass
class PackedCorpora:
    """The corpora of a run as text and as blocks."""

    corpora: list[Corpus]
    tokenizer: PreTrainedTokenizerBase
    train_blocks: Dataset | InfiniteMixture
    validation_blocks: list[Dataset]  # of each corpus
    collator: PackedCollator

    @property
    def fingerprint(self) -> str | None:
        """A hash of all documents, which changes with any text; None if there is a stream."""
        parts = [fingerprint or "" for corpus in self.corpora for fingerprint in corpus.fingerprints]
        return hash_of(parts) if all(parts) else None

    @property
    def train_documents(self) -> int | None:
        return None if self.fingerprint is None else sum(len(corpus.train) for corpus in self.corpora)

    @cached_property
    def train_bytes(self) -> int | None:
        return None if self.fingerprint is None else sum(corpus_bytes(corpus.train) for corpus in self.corpora)

    def train_texts(self) -> Iterator[str]:
        return texts(corpus.train for corpus in self.corpora)

    def validation_texts(self) -> Iterator[str]:
        return texts(corpus.validation for corpus in self.corpora)


def texts(splits) -> Iterator[str]:
    return (document["text"] for document in chain.from_iterable(splits))


def pack_corpora(
    corpus: CorpusArguments, tokenizer: str | None, vocab_size: int, block_size: int, stages: Stages,
    resumed: Path | None = None, seed: int = 0,
) -> PackedCorpora:  # fmt: skip
    """Read the corpora, get the tokenizer as `get_tokenizer` does, pack and mix; raises ValueError, OSError."""
    with stages("corpus") as say:
        with main_process_first():
            corpora = [read_corpus(spec, corpus, seed) for spec in corpus.corpus]
        for each in corpora:
            documents = len(each.train) if isinstance(each.train, Dataset) else None
            say(f"{each.name}: documents to train on: {amount(documents)}, held out: {len(each.validation):,}")
    with stages("tokenizer") as say:
        loaded = broadcast_from_main(lambda: get_tokenizer(tokenizer, vocab_size, block_size, corpora, resumed))
        say(f"{len(loaded):,} tokens")
    with stages("packing") as say:
        train, held_out = [], []
        for each in corpora:
            keys = each.fingerprints
            with main_process_first():  # the others find its blocks in the cache
                train.append(pack(each.train, loaded, block_size, keys[0]))
                held_out.append(pack(each.validation, loaded, block_size, keys[1]))
            tokens = len(next(iter(train[-1]))["input_ids"])
            if tokens < block_size:
                raise ValueError(f"{each.name} has only {tokens:,} tokens to train on: use --block_size {tokens}.")
        blocks = mix(train, corpus.corpus_weights, seed)
        known = len(blocks) if isinstance(blocks, Dataset) else None
        say(f"{amount(known, 'blocks')} of {block_size}")
    return PackedCorpora(corpora, loaded, blocks, held_out, PackedCollator(loaded.eos_token_id))


def read_corpus(spec: str, corpus: CorpusArguments, seed: int = 0) -> Corpus:
    """Read one corpus in its two splits, shuffled within a buffer if it is a stream."""
    how = {"streaming": corpus.streaming, "skip_malformed": corpus.skip_malformed}
    splits = load_corpus(spec, text_column=corpus.text_column, **how)
    train, validation = splits["train"], splits["validation"]
    if corpus.streaming:
        train = train.shuffle(seed=seed, buffer_size=corpus.shuffle_buffer_size)
        return Corpus(spec, train, Dataset.from_list(list(validation.take(STREAMED_VALIDATION))))
    return Corpus(spec, train, validation)


def mix(blocks: list, weights: list[float] | None, seed: int) -> Dataset | InfiniteMixture:
    """Mix the blocks of several corpora, each with its share `weights` of the tokens. Streams have no end.

    Without weights, each block comes once. With them, an epoch ends when every block has come at least once.
    """
    if isinstance(blocks[0], PackedStream):
        return InfiniteMixture(blocks, weights or [1.0], seed)
    if len(blocks) == 1:
        return blocks[0]
    if weights is None:
        return datasets.concatenate_datasets(blocks)
    shares = [weight / sum(weights) for weight in weights]
    return datasets.interleave_datasets(blocks, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")


def get_tokenizer(
    name: str | None, vocab_size: int, block_size: int, corpora: list[Corpus], resumed: Path | None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the `resumed` checkpoint, the one of that `name`, or a new one trained on the texts."""
    documents = texts(corpus.train for corpus in corpora)
    if resumed is not None:
        tokenizer = AutoTokenizer.from_pretrained(resumed)
    elif name == "char":
        tokenizer = train_char_tokenizer(documents)
    elif name is not None:
        tokenizer = load_tokenizer(name)
    else:
        tokenizer = train_tokenizer(documents, vocab_size)
    tokenizer.model_max_length = block_size
    return tokenizer
