"""Which embedders this user has named. An index may come from anybody, and must not choose what is loaded."""

from contextlib import suppress
from pathlib import Path

from .embedding import MINILM


def remember(name: str) -> None:
    with suppress(OSError):  # then the next index asks again
        if not is_chosen(name):
            _file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _file().open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")


def is_chosen(name: str) -> bool:
    with suppress(OSError, ValueError):
        return name == MINILM or name in _file().read_text(encoding="utf-8").split("\n")
    return False


def _file() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "foliogpt" / "embedders.txt"
