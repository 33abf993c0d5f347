"""Batches for contrastive training: texts of like length, none of them twice."""

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler

POOL = 16  # batches whose rows are drawn together and sorted by length


class LengthBuckets(DefaultBatchSampler):
    """Batches in which little is padding, and no text stands beside itself as its own wrong answer.

    Rows are drawn at random into pools, sorted by length there, and cut into batches, whose order is random again. A
    row with a text of the batch waits for the next one; one that is left alone has nothing to be told apart from.
    """

    def __init__(self, dataset, batch_size: int, drop_last: bool = False, valid_label_columns=None, generator=None,
                 seed: int = 0) -> None:  # fmt: skip
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        self.rows = list(zip(*(dataset[column] for column in dataset.column_names), strict=True))

    def __iter__(self):
        return iter(self._batches())

    def __len__(self) -> int:
        return len(self._batches())

    def _batches(self) -> list[list[int]]:
        """Those of the epoch that `set_epoch` named."""
        chance = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.rows), generator=chance).tolist()
        batches, pool, size = [], [], POOL * self.batch_size
        for start in range(0, len(order), size):
            is_last = start + size >= len(order)
            pool = sorted(pool + order[start : start + size], key=lambda row: -max(map(len, self.rows[row][1:])))
            while pool:
                batch, waiting, seen = [], [], set()
                for row in pool:
                    is_free = len(batch) < self.batch_size and seen.isdisjoint(self.rows[row])
                    (batch if is_free else waiting).append(row)
                    seen.update(self.rows[row] if is_free else ())
                if len(batch) < self.batch_size and not is_last:
                    break
                batches += [batch] * (len(batch) > 1)
                pool = waiting
        return [batches[i] for i in torch.randperm(len(batches), generator=chance).tolist()]
