"""Public names of a package that are imported when they are first used, so that a command imports little."""

import importlib
from collections.abc import Callable


def lazy_names(package: str, where: dict[str, str]) -> Callable[[str], object]:
    """Make a package's `__getattr__` (PEP 562), given the module below it `where` each public name is."""

    def find(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{where[name]}"), name)

    return find
