"""Messages about names that stand for no checkpoint, with the name to give instead."""

from pathlib import Path

from ..jobs.errors import first_line
from ..jobs.run_folder import RUN_FILE
from ..jobs.saving import checkpoints, find_corrupt_file

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FROM_GGUF = "make a checkpoint of it with transformers, as docs/interchange.md shows"
PICKLES = ("pytorch_model*.bin", "adapter_model.bin", "*.pt", "*.pth")


def explain(name: str, error: Exception) -> str:
    """Explain in one line why `name`, which failed to load with `error`, is no checkpoint."""
    place, why = Path(name).expanduser(), first_line(error)
    if place.is_dir() and (about := _about_folder(place)):
        return f"{name} {about}"
    if place.is_file():
        remedy = FROM_GGUF if place.suffix == ".gguf" else f"name the directory that it is in, {place.parent}"
        return f"{name} is a file: {remedy}."
    if "trust_remote_code" in str(error):
        return f"{name} has code of its own: give --trust_remote_code if you trust it."
    if place.is_dir():
        return f"{name} is not a complete checkpoint ({why}): check the path, or save the checkpoint again."
    what = f"there is no such directory, and the Hub has no model of that name or cannot be reached ({why})"
    return f"No model at {name!r}: {what}. Check the path, or the model's name and your connection."


def _about_folder(folder: Path) -> str | None:
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    if is_adapter or (folder / "config.json").is_file():
        pickle = next((file.name for pattern in PICKLES for file in folder.glob(pattern)), None)
        if pickle and not any(folder.glob("*.safetensors")):
            remedy = "if you trust it, open it with from_pretrained(..., use_safetensors=False), and save_pretrained"
            return f"has its weights in {pickle}, which is not opened, as it can run code: {remedy}."
        if is_adapter and not (folder / ADAPTER_WEIGHTS).is_file():
            return f"is not a complete adapter: it has no {ADAPTER_WEIGHTS}."
    elif saved := checkpoints(folder):
        last = next((path for path in reversed(saved) if not find_corrupt_file(path)), saved[-1])
        return f"is an unfinished run, which has no model yet: name {last}, or continue the run with --resume."
    elif (folder / RUN_FILE).is_file():
        return "is a run that stopped before its first checkpoint, so it has no model: start it again with --overwrite."
    elif adapters := sorted(file.parent for file in folder.glob(f"*/{ADAPTER_CONFIG}")):
        return f"contains adapters, and is none: name one of the {len(adapters)}, for instance {adapters[0]}."
    elif any(folder.glob("*.gguf")):
        return f"has no config.json, but GGUF: {FROM_GGUF}."
    return None
