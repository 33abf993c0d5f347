"""Documents to training examples: tokenised, joined, and cut into blocks of equal length."""

from collections.abc import Iterator

import torch
from datasets import Dataset, IterableDataset

IGNORED = -100  # the label of a position that has nothing to predict


def pack(dataset: Dataset | IterableDataset, tokenizer, block_size: int, **map_arguments) -> Dataset | IterableDataset:
    """Tokenise the `text` column and pack the documents into blocks of `block_size` tokens.

    The documents are joined with the end-of-text token before each and after the last. Each block begins with
    the last token of the block before, so that every token is predicted exactly once and the loss over all
    blocks is the loss of the text: what bits per byte need. Only the last block of every thousand documents is
    padded.

    Args:
        dataset: has the columns `name` and `text`.
        tokenizer: has an `eos_token_id`.
        block_size: tokens in a block, at least 2.
        map_arguments: for `datasets.Dataset.map`, whose cache makes a second run instant.

    Returns:
        A data set with the columns `input_ids` and `labels`, each (block_size,).

    Raises:
        ValueError: if the tokenizer has no end-of-text token, or `block_size` is too small.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no eos_token, which marks where a document ends: give it one.")
    if block_size < 2:
        raise ValueError(f"block_size is {block_size}: a block needs at least 2 tokens, one to predict the other from.")

    def pack_batch(batch: dict) -> dict:
        stream = [tokenizer.eos_token_id]
        for ids in tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]:
            stream += ids
            stream.append(tokenizer.eos_token_id)
        blocks = list(_blocks(stream, block_size, tokenizer.eos_token_id))
        return {"input_ids": [ids for ids, _ in blocks], "labels": [labels for _, labels in blocks]}

    if isinstance(dataset, Dataset):
        map_arguments = {"desc": "tokenising", **map_arguments}
    columns = ["name", "text"]
    return dataset.map(pack_batch, batched=True, batch_size=1000, remove_columns=columns, **map_arguments)


def _blocks(stream: list[int], block_size: int, fill: int) -> Iterator[tuple[list[int], list[int]]]:
    for start in range(0, len(stream) - 1, block_size - 1):
        ids = stream[start : start + block_size]
        padding = block_size - len(ids)
        yield ids + [fill] * padding, ids + [IGNORED] * padding


class PackedCollator:
    """Stacks blocks into a batch; positions start at 0 with every document, which keeps documents apart.

    Without an attention mask and a cache, transformers reads document boundaries from the positions: no token
    attends to another document.
    """

    def __init__(self, eos_token_id: int):
        self.eos_token_id = eos_token_id

    def __call__(self, blocks: list[dict]) -> dict[str, torch.Tensor]:
        input_ids = torch.tensor([block["input_ids"] for block in blocks])  # (B, T)
        labels = torch.tensor([block["labels"] for block in blocks])
        index = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        begins = torch.where(input_ids == self.eos_token_id, index, 0)
        return {
            "input_ids": input_ids,
            "labels": labels,
            "position_ids": index - begins.cummax(dim=1).values,
        }
