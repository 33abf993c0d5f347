"""Give torch the kernels of `cpu_kernels.py` as soon as it is imported. Python reads this file when it starts."""

import importlib.util
import sys
from importlib.abc import MetaPathFinder

sys.modules["triton"] = None  # pyright: ignore[reportArgumentType]  # as if it were not installed: its kernels compute


class TorchFinder(MetaPathFinder):
    """Find torch as usual, and install the kernels after it has been executed."""

    def __init__(self):
        self.is_asked = False

    def find_spec(self, name, path=None, target=None):
        if name != "torch" or self.is_asked:
            return None
        self.is_asked = True
        try:
            spec = importlib.util.find_spec("torch")
        finally:
            self.is_asked = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_install(module):
                execute(module)
                import cpu_kernels

                cpu_kernels.install()

            spec.loader.exec_module = execute_and_install
        return spec


sys.meta_path.insert(0, TorchFinder())
