"""What a run trains and is judged on: a corpus, read, split, tokenised and packed."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import datasets
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..tokenization import train_char_tokenizer, train_tokenizer
from .arguments import CorpusArguments, ModelArguments
from .corpora import corpus_bytes, load_corpus
from .corpus_files import first_line
from .packing import IGNORED, PackedCollator, pack
from .report import Stages, amount

STREAMED_VALIDATION = 1000  # documents held out of an endless stream


@dataclass
class Data:
    """The two splits as text and as blocks. The training split of a stream has no known size."""

    train: datasets.Dataset | datasets.IterableDataset
    validation: datasets.Dataset
    tokenizer: PreTrainedTokenizerBase
    train_blocks: datasets.Dataset | datasets.IterableDataset
    validation_blocks: datasets.Dataset
    collator: PackedCollator

    @property
    def fingerprint(self) -> str | None:
        """A hash of all documents, by which a text that has changed is told; None for a stream."""
        if not isinstance(self.train, datasets.Dataset):
            return None
        digest = hashlib.blake2b(digest_size=16)
        for split in (self.train, self.validation):
            for row in split:
                digest.update(repr((row["name"], row["text"])).encode(errors="replace"))
        return digest.hexdigest()

    @property
    def train_documents(self) -> int | None:
        return len(self.train) if isinstance(self.train, datasets.Dataset) else None

    @property
    def train_bytes(self) -> int | None:
        return corpus_bytes(self.train) if isinstance(self.train, datasets.Dataset) else None


def prepare_data(corpus: CorpusArguments, model: ModelArguments, resumed: Path | None, stages: Stages) -> Data:
    """Read the corpus, get the tokenizer (that of the checkpoint `resumed`, if there is one), and pack.

    Raises:
        ValueError, OSError: for a corpus or tokenizer that does not work; the message says what to do.
    """
    with stages("corpus") as say:
        splits = load_corpus(corpus.corpus, text_column=corpus.text_column, streaming=corpus.streaming)
        train, validation = splits["train"], splits["validation"]
        if corpus.streaming:
            validation = datasets.Dataset.from_list(list(validation.take(STREAMED_VALIDATION)))
        documents = None if corpus.streaming else len(train)
        say(f"{corpus.corpus}: {amount(documents)} documents, and {len(validation):,} held out")
    with stages("tokenizer") as say:
        tokenizer = get_tokenizer(model, train, resumed)
        blocks = pack(train, tokenizer, model.block_size)
        held_out = pack(validation, tokenizer, model.block_size)
        tokens = sum(label != IGNORED for label in next(iter(blocks))["labels"])
        if tokens < model.block_size:
            raise ValueError(f"{corpus.corpus} has only {tokens:,} tokens to train on: use --block_size {tokens}.")
        say(f"{len(tokenizer):,} tokens, blocks of {model.block_size}")
    return Data(train, validation, tokenizer, blocks, held_out, PackedCollator(tokenizer.eos_token_id))


def get_tokenizer(model: ModelArguments, texts, resumed: Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer of the run that is resumed, the one that was named, or a new one trained on the texts."""
    if resumed is not None:
        tokenizer = AutoTokenizer.from_pretrained(resumed)
    elif model.tokenizer == "char":
        tokenizer = train_char_tokenizer(document["text"] for document in texts)
    elif model.tokenizer is not None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(os.path.expanduser(model.tokenizer))
        except Exception as error:  # what a file that somebody else wrote can raise has no end
            raise ValueError(
                f"--tokenizer {model.tokenizer} is not a tokenizer's directory or Hub name ({first_line(error)})."
            ) from None
    else:
        tokenizer = train_tokenizer((document["text"] for document in texts), model.vocab_size)
    tokenizer.model_max_length = model.block_size
    return tokenizer
