"""Pretraining and fine-tuning."""

from typing import TYPE_CHECKING

from ..jobs.lazy import lazy_names

if TYPE_CHECKING:
    from .arguments import ModelArguments, PretrainingArguments
    from .finetuning.arguments import MethodArguments
    from .finetuning.finetuning import finetune
    from .finetuning.merging import merge
    from .finetuning.trainers import arguments_of
    from .pretraining import pretrain
    from .trainer import FolioTrainer

__all__ = [
    "FolioTrainer", "MethodArguments", "ModelArguments", "PretrainingArguments", "arguments_of", "finetune",
    "merge", "pretrain",
]  # fmt: skip

WHERE = {
    "FolioTrainer": "trainer", "MethodArguments": "finetuning.arguments", "ModelArguments": "arguments",
    "PretrainingArguments": "arguments", "arguments_of": "finetuning.trainers", "finetune": "finetuning.finetuning",
    "merge": "finetuning.merging", "pretrain": "pretraining",
}  # fmt: skip
__getattr__ = lazy_names(__name__, WHERE)
