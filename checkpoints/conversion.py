"""From one kind of checkpoint to another, with proof: the result is written aside, loaded as its users will load it,
and compared with the source before it is moved to where it belongs."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from .gguf_export import plan_gguf
from .native import ARCHITECTURES
from .sources import Source, logits_of, open_checkpoint
from .targets import plan_folder

TARGETS = ("folio", *ARCHITECTURES, "gguf")
# How far logits may be apart, in float32. On 22 inputs of a Llama of 30 layers, ours was at most twice as far from
# stock's as stock's float32 is from its float64.
ROUNDINGS = 10
SMALLEST, LARGEST = 1e-6, 1e-3  # of the largest logit: the limit is never below the one, never above the other
RANDOM, TOKENS = 2, 128  # sequences of random ids, and tokens in each and of the text
TEXT = """The quality of mercy is not strain'd, it droppeth as the gentle rain from heaven upon the place beneath: it
is twice blest; it blesseth him that gives and him that takes: 'tis mightiest in the mightiest.

    def fold(sheet, times=1):
        return [sheet[i :: 2**times] for i in range(2**times)]  # 1, 2, 4, 8 leaves

In 1623 thirty-six plays came out in folio; 750 copies were printed, and about 235 are left. Größe, café, 東京, 🙂!
"""
NUMBERS = "x =  1\n\n   22\t333  4444 55555 it's 2²"  # where tokenizers cut in different ways


@dataclass(frozen=True)
class Conversion:
    """What was done, and how far the two models are apart: the largest difference of a logit, in float32."""

    source: str
    kind: str
    to: str
    destination: Path
    parameters: int
    dtype: str
    random_difference: float
    text_difference: float | None  # None if there is no tokenizer
    rounding: float  # the largest difference between float32 and float64 in the source
    seconds: float


def convert(source: str | Path, destination: str | Path, to: str) -> Conversion:
    """Write the model in `source` to `destination` as another kind of checkpoint that computes the same.

    Args:
        source: the directory or Hub name of a Folio, gpt2, llama or qwen3 checkpoint with safetensors.
        destination: a directory, or for "gguf" a file; there must be nothing yet.
        to: one of `TARGETS`.

    Raises ValueError for a source that is damaged, of an unknown kind or has what `to` cannot express, and if the
    results differ by more than `largest_difference`; OSError if the source is not there, or the destination is; and
    ImportError if the package for GGUF is missing. Then nothing is written.
    """
    start = time.perf_counter()
    destination = Path(os.path.normpath(Path(destination).expanduser()))  # "new/.." is where we are
    if to not in TARGETS:
        raise ValueError(f"There is no target {to!r}: choose one of {', '.join(TARGETS)}.")
    if os.path.lexists(destination):
        raise FileExistsError(f"{destination} is already there: give another name, or remove it first.")
    opened = open_checkpoint(str(source))
    if opened.kind == to:
        raise ValueError(f"{source} is a {to} checkpoint already: copy it.")
    plan = plan_gguf(opened, destination) if to == "gguf" else plan_folder(opened, to)  # may refuse

    batches = sample_ids(opened)
    expected = opened.logits(batches, torch.float32)
    roundings = compare(expected, opened.logits(batches, torch.float64))
    limits = [largest_difference(*pair) for pair in zip(expected, roundings, strict=True)]
    with staged(destination) as path:
        tensors = opened.tensors()
        parameters = sum(tensor.numel() for tensor in tensors.values())
        plan.write(tensors, path)
        del tensors
        differences = compare(expected, logits_of(lambda: plan.load(path), batches))
        for difference, limit in zip(differences, limits, strict=True):
            if not difference <= limit:  # NaN is not
                what = f"logits differ from the source's by {difference:.2g}, and rounding explains at most {limit:.2g}"
                raise ValueError(f"The {to} model's {what}: please report this checkpoint's config.json.")
        if opened.tokenizer is not None:
            check_tokenizer(opened.tokenizer, plan.load_tokenizer(path))
    dtype, seconds = str(opened.dtype).removeprefix("torch."), time.perf_counter() - start
    apart = max(differences[:RANDOM]), max(differences[RANDOM:], default=None), max(roundings)
    return Conversion(str(source), opened.kind, to, destination, parameters, dtype, *apart, seconds)


def sample_ids(source: Source) -> list[torch.Tensor]:
    """Token ids to compare on, each (1, T): random ones, and those of a text if there is a tokenizer."""
    length = min(TOKENS, source.config.max_position_embeddings)
    vocab_size = source.config.vocab_size
    chance = torch.Generator().manual_seed(0)
    batches = [torch.randint(vocab_size, (1, length), generator=chance) for _ in range(RANDOM)]
    if source.tokenizer is not None:
        ids = source.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        if max(ids, default=0) >= vocab_size:
            what = f"The tokenizer gives id {max(ids)}, but vocab_size is {vocab_size}"
            raise ValueError(f"{what}: it is another model's tokenizer, so put the right one there.")
        if ids:
            batches.append(torch.tensor([ids[:length]]))
    return batches


def compare(expected: list[torch.Tensor], got: list[torch.Tensor]) -> list[float]:
    """The largest difference of a logit in each batch."""
    return [(a - b).abs().max().item() for a, b in zip(expected, got, strict=True)]


def largest_difference(expected: torch.Tensor, rounding: float) -> float:
    """The largest difference from the source's logits that can be rounding, given how much it is in the source."""
    largest = expected.abs().max().item()
    return min(max(ROUNDINGS * rounding, SMALLEST * largest), LARGEST * largest)


def check_tokenizer(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that became another one, on texts and on one that its own vocabulary makes."""
    own = before.decode(list(range(min(len(before), 5000))), skip_special_tokens=True)
    special = [f"{kind}_token_id" for kind in ("bos", "eos", "pad", "unk")]
    same = all(getattr(after, name) == getattr(before, name) for name in special)
    if not same or any(after(text)["input_ids"] != before(text)["input_ids"] for text in (TEXT, NUMBERS, own)):
        what = f"The tokenizer ({type(before).__name__}) becomes {type(after).__name__} there and gives other ids"
        raise ValueError(f"{what}: please report this checkpoint's tokenizer_config.json.")


@contextlib.contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """A path to write to that becomes `destination` when the block ends, and is gone if the block fails."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".converting-", dir=destination.parent))
    try:
        yield staging / destination.name
        os.rename(staging / destination.name, destination)
    except SafetensorError as error:
        raise OSError(f"Could not write {destination}: {error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
