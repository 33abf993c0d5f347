"""Documents to training examples: tokenized once, joined, and cut into blocks of equal length."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import datasets
import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from filelock import FileLock
from torch.nn.utils.rnn import pad_sequence

from ..modeling.packed_attention import sequence_lengths
from ..tokenization import encode_texts, vocabulary_size

IGNORE_INDEX = -100  # the label of a position that has nothing to predict
TOKENIZE_BATCH_SIZE = 1000  # documents that are tokenized at once, and joined
LENGTHS_MULTIPLE = 64  # lengths are filled up to a multiple, so that a compiled model meets few shapes
FORMAT = "2"  # of the stored blocks: to be changed with `pack`
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # the last bytes of a complete Arrow file


class PackedStream:
    """The blocks of a stream of documents, packed while it is read."""

    def __init__(self, documents: IterableDataset, pack_batch: Callable[[dict], dict]):
        self.documents, self.pack_batch = documents, pack_batch

    def batches(self, skip: int = 0) -> Iterator[tuple[int, list[dict]]]:
        """Yield batches of documents after the first `skip`: how many there are, and their blocks."""
        rows = islice(iter(self.documents), skip, None)
        while batch := list(islice(rows, TOKENIZE_BATCH_SIZE)):
            blocks = self.pack_batch({"text": [row["text"] for row in batch]})["input_ids"]
            yield len(batch), [{"input_ids": block} for block in blocks]

    def __iter__(self) -> Iterator[dict]:
        return (block for _, blocks in self.batches() for block in blocks)


def pack(
    documents: Dataset | IterableDataset, tokenizer, block_size: int, fingerprint: str | None = None
) -> Dataset | PackedStream:
    """Tokenize the `text` column and pack the documents into blocks of `block_size` tokens.

    The documents are joined with the end-of-text token before each and after the last. Each block begins with the last
    token of the block before, so that every token is predicted once and the loss over all blocks is that of the text:
    bits per byte need this. The last block of every thousand documents is shorter. With a `fingerprint` of the
    documents, the blocks are stored in the cache of `datasets`, for later runs.

    Returns rows with the column `input_ids`, each (block_size,) or shorter. Raises ValueError if the tokenizer has no
    end-of-text token, or `block_size` is too small; OSError if the blocks cannot be stored.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no eos_token, which marks the end of a document: give it one.")
    if block_size < 2:
        raise ValueError(f"block_size is {block_size}: a block needs at least 2 tokens, one to predict the other from.")

    def pack_batch(batch: dict) -> dict:
        stream = [tokenizer.eos_token_id]
        for ids in encode_texts(tokenizer, batch["text"]):
            stream += ids
            stream.append(tokenizer.eos_token_id)
        starts = range(0, len(stream) - 1, block_size - 1)
        return {"input_ids": [stream[start : start + block_size] for start in starts]}

    if isinstance(documents, IterableDataset):
        return PackedStream(documents, pack_batch)
    width = "uint16" if vocabulary_size(tokenizer) <= 2**16 else "uint32"
    how = {"batched": True, "batch_size": TOKENIZE_BATCH_SIZE, "remove_columns": ["name", "text"], "desc": "tokenizing"}
    how["features"] = Features({"input_ids": List(Value(width))})
    if fingerprint is None or not tokenizer.is_fast:  # only a fast one has all its settings in one string
        return documents.map(pack_batch, new_fingerprint=datasets.fingerprint.generate_random_fingerprint(), **how)
    key = blocks_fingerprint(fingerprint, tokenizer, block_size)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "foliogpt" / f"blocks-{key}"
    file = folder / "blocks.arrow"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # of processes that start together, one tokenizes
            if not _is_complete(file):
                shutil.rmtree(folder, ignore_errors=True)  # the rest of a killed process, or of a full disk
            folder.mkdir(exist_ok=True)
            options = {"cache_file_name": str(file), "load_from_cache_file": True, "new_fingerprint": key}
            return documents.map(pack_batch, **options, **how)
    except OSError as error:
        remedy = "make room there, or name another folder in the environment variable HF_DATASETS_CACHE"
        raise OSError(f"The tokens cannot be stored in {folder.parent} ({error}): {remedy}.") from None


def _is_complete(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        opened.seek(-min(len(END_OF_STREAM), file.stat().st_size), 2)
        return opened.read() == END_OF_STREAM


def blocks_fingerprint(documents: str, tokenizer, block_size: int) -> str:
    """Return a hash that identifies the blocks made of the documents with this fingerprint."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # as encode_texts leaves it
    backend.no_padding()
    parts = [FORMAT, documents, backend.to_str(), str(tokenizer.eos_token_id), str(block_size)]
    return hash_of(["\0".join(parts)])


def hash_of(parts: Iterable[str]) -> str:
    """Return a hash of strings that come one after another, which is that of the string that they make."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode())
    return digest.hexdigest()


class PackedCollator:
    """A collator of blocks to a batch, with positions that start at 0 in every document, and no attention mask.

    Then no token attends to another document. With `gives_lengths` a batch has lengths, for kernels without a mask.
    """

    gives_lengths = False

    def __init__(self, eos_token_id: int):
        self.eos_token_id = eos_token_id

    def __call__(self, blocks: list[dict]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `labels` (-100 where a short block was filled up), `position_ids`, each (B, T)."""
        if not blocks[0]:  # a resumed run has had them
            return {"input_ids": torch.empty(len(blocks), 0, dtype=torch.long)}
        blocks = [torch.as_tensor(block["input_ids"], dtype=torch.long) for block in blocks]
        input_ids = pad_sequence(blocks, batch_first=True, padding_value=self.eos_token_id)
        labels = input_ids.clone()
        for row, block in zip(labels, blocks, strict=True):
            row[len(block) :] = IGNORE_INDEX
        index = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        begins = torch.where(input_ids == self.eos_token_id, index, 0)
        batch = {"input_ids": input_ids, "labels": labels, "position_ids": index - begins.cummax(dim=1).values}
        if self.gives_lengths:
            lengths = sequence_lengths(batch["position_ids"], len(blocks))
            padding = (0, -len(lengths) % LENGTHS_MULTIPLE)  # documents without a token
            batch["cu_seq_lens_q"] = torch.nn.functional.pad(lengths, padding, value=input_ids.numel())
        return batch


class Collator:
    """A collator that pads examples at the end with `pad_token_id`; each token, or each example, has a label.

    Rows of several examples get positions that start at 0 with each, and no attention mask. Then transformers reads
    from the positions where examples begin, and none of them attends to another.
    """

    def __init__(self, pad_token_id: int, per_token: bool = True):
        self.pad_token_id, self.per_token = pad_token_id, per_token

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Return `input_ids` (B, T), `labels` (B, T) or those of the examples, and mask or positions (B, T)."""
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        batch = {"input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)}
        length = batch["input_ids"].shape[1]
        if self.per_token:
            labels = [torch.tensor(example["labels"]) for example in examples]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)
        else:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        if "seq_lengths" in examples[0]:
            # The padding of a row is one more example.
            spans = [[*e["seq_lengths"], length - len(e["input_ids"])] for e in examples]
            batch["position_ids"] = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in spans])
        else:
            batch["attention_mask"] = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        return batch
