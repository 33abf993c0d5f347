"""Infinite streams that resume at a saved position without tokenizing earlier documents again."""

import random
from collections.abc import Iterator
from itertools import count

import torch

from .packing import PackedStream

SKIPPED: dict = {}  # in place of a block that the run has had: Trainer discards the batches before a resumed step
INTERVAL = 64  # blocks between saved positions


class InfiniteMixture(torch.utils.data.IterableDataset):
    """Streams of blocks, of which each next one is drawn by weight; one that ends begins again, in another order.

    To Trainer, it is a single epoch. `start` is the position of an earlier iteration at which the next one begins; the
    blocks before it, which Trainer skips, are left empty.
    """

    def __init__(self, streams: list[PackedStream], weights: list[float], seed: int):
        self.streams, self.weights, self.seed = streams, weights, seed
        self.start = {"blocks": 0, "streams": [[0, 0, 0] for _ in streams]}
        self.positions: list[dict] = []

    def position(self, blocks: int) -> dict | None:
        """Return a `start` for a run that has had so many blocks; None if workers of the loader read the stream."""
        older = [position for position in self.positions if position["blocks"] <= blocks]
        self.positions = older[-1:] + self.positions[len(older) :]
        return older[-1] if older else None

    def __iter__(self) -> Iterator[dict]:
        draw, start = random.Random(self.seed), self.start
        readings = [_Reading(stream, at) for stream, at in zip(self.streams, start["streams"], strict=True)]
        self.positions = []
        for blocks in count():
            chosen = draw.choices(readings, self.weights)[0]
            if blocks < start["blocks"]:
                yield SKIPPED
                continue
            if (blocks - start["blocks"]) % INTERVAL == 0:
                self.positions.append({"blocks": blocks, "streams": [list(reading.at) for reading in readings]})
            block = next(chosen.blocks, None)
            if block is None:
                return
            yield block


class _Reading:
    def __init__(self, stream: PackedStream, at: list[int]):
        self.at = at  # the epoch, its documents that came before, and the blocks after these that came before
        self.blocks = self._read(stream)

    def _read(self, stream: PackedStream) -> Iterator[dict]:
        first, documents, had = self.at
        for epoch in count(first):
            stream.documents.set_epoch(epoch)
            for size, blocks in stream.batches(skip=documents):
                for index in range(had, len(blocks)):
                    self.at = [epoch, documents, index + 1]
                    yield blocks[index]
                documents, had = documents + size, 0
            if documents == 0:  # a worker of the data loader without a share of the stream
                return
            documents = 0
