"""Finished models: loading, conversion, publishing."""

from typing import TYPE_CHECKING

from ..jobs.lazy import lazy_names

if TYPE_CHECKING:
    from .conversion import convert
    from .loading import load_model
    from .publishing import push

__all__ = ["convert", "load_model", "push"]

__getattr__ = lazy_names(__name__, {"convert": "conversion", "load_model": "loading", "push": "publishing"})
