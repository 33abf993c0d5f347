"""The files of a checkpoint: found, checked, and read one tensor at a time."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from .no_checkpoint import ADAPTER_CONFIG, explain

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, GENERATION = "config.json", "generation_config.json"
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. `stored[...]` opens the file, reads and closes it: mapped pages would stay in memory."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None for any but `DTYPES`

    def __getitem__(self, everything: EllipsisType) -> torch.Tensor:
        with safe_open(self.file, framework="pt") as file:
            return file.get_tensor(self.name)


def find_checkpoint(source: str) -> Path:
    """Return a checkpoint's directory, or download it; raises OSError without one, ValueError for other things."""
    folder = Path(source).expanduser()
    if folder.is_file():
        raise ValueError(explain(source, ValueError("it is a file")))
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(source, allow_patterns=HUB_FILES, ignore_patterns=["*/*"]))
        except Exception as error:  # offline, no such name, no such host: each library has its own
            raise OSError(explain(source, error)) from None
    if not (folder / CONFIG).is_file():
        if (folder / ADAPTER_CONFIG).is_file():
            remedy = f"make a checkpoint of it and its base with folio merge {source} DIRECTORY, and convert that"
            raise ValueError(f"{source} is an adapter, not a model: {remedy}.")
        raise FileNotFoundError(explain(source, FileNotFoundError("it has no config.json")))
    return folder


def read_config(folder: Path, name: str = CONFIG) -> dict:
    """Read config.json, or another such file; raises ValueError if it is not JSON, or no object."""
    file = folder / name
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} is not a JSON object: save it again.")
    return config


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return a folder's tensors by name, read from the files' headers; raises FileNotFoundError, ValueError."""
    return read_headers(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else read_index(folder)


def read_index(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of the files that an index names; raises FileNotFoundError, ValueError."""
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(explain(str(folder), FileNotFoundError(f"it has neither {WEIGHTS} nor {INDEX}")))
    try:
        weight_map = read_config(folder, INDEX)["weight_map"]
        files = sorted(set(weight_map.values()))
        if any(Path(name).name != name for name in files):
            raise ValueError("it names a file outside of its folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of weights: {type(error).__name__} {error}") from None
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {some(missing)}, which {INDEX} names: get the complete checkpoint.")
    tensors = {name: tensor for file in files for name, tensor in read_headers(folder / file).items()}
    if missing := [name for name in weight_map if name not in tensors]:
        raise ValueError(f"{INDEX} promises {some(missing)}, but no file has it: get the complete checkpoint.")
    return tensors


def read_headers(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file; raises ValueError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: StoredTensor(path, name, tuple(part.get_shape()), DTYPES.get(part.get_dtype()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        what = f"{path} is cut off or is no safetensors file ({error})"
        raise ValueError(f"{what}: download or save it once more.") from None


def check_shapes(stored: dict[str, tuple], expected: dict[str, tuple], optional: set[str], where) -> None:
    """Raise ValueError for tensors missing, unless `optional`, too many, or of another shape than expected."""
    wrong = []
    if missing := [name for name in expected if name not in stored and name not in optional]:
        wrong.append(f"it lacks {some(missing)}")
    if extra := [name for name in stored if name not in expected]:
        wrong.append(f"it has {some(extra)}, which the config has no place for")
    other = [name for name in expected if name in stored and stored[name] != tuple(expected[name])]
    if shapes := [f"{name} {list(stored[name])} instead of {list(expected[name])}" for name in other]:
        wrong.append(f"shapes differ from the config's: {some(shapes)}")
    if wrong:
        raise ValueError(f"{where} does not fit its config.json: {'; '.join(wrong)}.")


def some(names: list[str], most: int = 3) -> str:
    """List the first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
