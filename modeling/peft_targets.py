"""What PEFT's methods adapt in a Folio model when the user does not say.

PEFT keeps that in tables by model type. Ours is added when PEFT is imported, before or after this package, and
importing this package does not import PEFT.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder

TABLES = "peft.utils.constants"
LIKE = "llama"  # the model type whose modules have our names


def add_targets(constants, model_type: str) -> None:
    """Enter `model_type` into every table of PEFT's that has `LIKE`."""
    for name, table in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(table, dict) and LIKE in table:
            table.setdefault(model_type, table[LIKE])


class _WhenImported(MetaPathFinder):
    """Finds PEFT's tables as anybody would, and adds to them once they are loaded."""

    def __init__(self, model_type: str):
        self.model_type = model_type

    def find_spec(self, name, path, target=None):
        if name != TABLES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_add(module):
                load(module)
                add_targets(module, self.model_type)

            spec.loader.exec_module = load_and_add
        return spec


def register(model_type: str) -> None:
    """Make PEFT know `model_type`, now or when it is imported."""
    if TABLES in sys.modules:
        add_targets(sys.modules[TABLES], model_type)
    else:
        sys.meta_path.insert(0, _WhenImported(model_type))
