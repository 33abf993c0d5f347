"""The record, in an adapter's directory, of the model that it was trained on: a hash of its weights, and the task."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

BASE_FILE = "base_model.json"


@dataclass(frozen=True)
class BaseRecord:
    """The base of an adapter."""

    weights_hash: str  # as `hash_weights` gives it
    task: str = "lm"  # the task that `load_model` loads it for: lm, classify, tag or qa
    id2label: dict[int, str] | None = None  # of the head, for classify and tag

    def save(self, directory: str | Path) -> None:
        (Path(directory) / BASE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> "BaseRecord | None":
        """Read a record; None if there is none, as PEFT writes none. Raises ValueError for a file that is not ours."""
        file = Path(directory) / BASE_FILE
        if not file.is_file():
            return None
        try:
            fields = dict(json.loads(file.read_text(encoding="utf-8")))
            kind = fields.pop("problem_type", None)  # early versions wrote it
            record = cls(**fields)
        except (ValueError, TypeError):
            raise ValueError(f"{file} is not the record of a base model: remove it to load without it.") from None
        if kind not in (None, "single_label_classification"):
            raise ValueError(f"{directory} is an adapter for {kind}: train one that predicts one label per text.")
        labels = record.id2label and {int(i): str(name) for i, name in record.id2label.items()}
        return replace(record, id2label=labels)


@torch.no_grad()
def hash_weights(model: nn.Module | dict[str, nn.Parameter], without: Iterable[str] = ()) -> str:
    """Hash a model's parameters, `without` those that were not in its checkpoint, such as a new head's."""
    digest = hashlib.blake2b(digest_size=16)
    weights = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
    for name in sorted(weights.keys() - set(without)):
        p = weights[name]
        digest.update(f"{name} {p.dtype} {tuple(p.shape)}".encode())
        digest.update(p.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
