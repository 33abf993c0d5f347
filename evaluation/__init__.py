"""Metrics with confidence intervals, bits per byte, baselines, and answers found in a text."""

from typing import TYPE_CHECKING

from ..jobs.lazy import lazy_names

if TYPE_CHECKING:
    from .arguments import EvaluationArguments
    from .run import evaluate

__all__ = ["EvaluationArguments", "evaluate"]

__getattr__ = lazy_names(__name__, {"EvaluationArguments": "arguments", "evaluate": "run"})
