"""From one kind of checkpoint to another, with proof: the result is written aside, loaded as its users will load it,
and compared with the source before it is moved to where it belongs."""

import contextlib
import copy
import functools
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .configuration_folio import FolioConfig
from .modeling_folio import FolioForCausalLM
from .native import ARCHITECTURES, Architecture, to_folio_config, to_native_config, to_ours, to_theirs
from .weight_files import StoredTensor, check_shapes, find_checkpoint, read_config, some, stored_tensors, without

TARGETS = ("folio", *ARCHITECTURES, "gguf")
LARGEST_DIFFERENCE = 1e-4  # of a logit, in float32
TOKENS = 128  # compared, of random ids and of a text
GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "*.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
TEXT = """The quality of mercy is not strain'd, it droppeth as the gentle rain from heaven upon the place beneath: it
is twice blest; it blesseth him that gives and him that takes: 'tis mightiest in the mightiest.

    def fold(sheet, times=1):
        return [sheet[i :: 2**times] for i in range(2**times)]  # 1, 2, 4, 8 leaves

In 1623 thirty-six plays came out in folio; 750 copies were printed, and about 235 are left. Größe, café, 東京, 🙂!
"""


@dataclass(frozen=True)
class Source:
    """A checkpoint that is read, whatever its kind.

    Args:
        kind: what it is, of `TARGETS` or "nanogpt".
        config: of the Folio model that computes the same.
        tensors: reads the weights under their Folio names.
        logits: what the source itself computes for each of some batches of ids, in float32.
        tokenizer: None if it has none.
        folder: where the files of the tokenizer and of generation are, if it has any.
    """

    kind: str
    config: FolioConfig
    tensors: Callable[[], dict[str, torch.Tensor]]
    logits: Callable[[list[torch.Tensor]], list[torch.Tensor]]
    tokenizer: PreTrainedTokenizerBase | None
    folder: Path | None


@dataclass(frozen=True)
class Plan:
    """How a target is written, given Folio's weights, and how its users will load the model and the tokenizer."""

    write: Callable[[dict[str, torch.Tensor], Path], None]
    load: Callable[[Path], PreTrainedModel]
    load_tokenizer: Callable[[Path], PreTrainedTokenizerBase]


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
    seconds: float


def convert(source: str | Path, destination: str | Path, to: str) -> Conversion:
    """Write the model in `source` to `destination` as another kind of checkpoint that computes the same.

    Args:
        source: the directory or Hub name of a Folio, gpt2, llama or qwen3 checkpoint with safetensors, or the
            file of a nanoGPT checkpoint.
        destination: a directory, or for "gguf" a file; there must be nothing yet.
        to: one of `TARGETS`.

    Raises:
        ValueError: for a source that is damaged, contradicts itself or is of an unknown kind, for a field of its config
            that `to` cannot express, and if the results differ by more than `LARGEST_DIFFERENCE`. Nothing is written.
        OSError: if the source is not there, or the destination is, or cannot be written.
        ImportError: if the package for GGUF is missing.
    """
    start = time.perf_counter()
    destination = Path(destination).expanduser()
    if to not in TARGETS:
        raise ValueError(f"There is no target {to!r}: choose one of {', '.join(TARGETS)}.")
    if os.path.lexists(destination):
        raise FileExistsError(f"{destination} is already there: give another name, or remove it first.")
    opened = open_source(str(source))
    if opened.kind == to:
        raise ValueError(f"{source} is a {to} checkpoint already: copy it.")
    if to == "gguf":
        from .gguf_export import plan_gguf as plan
    else:
        plan = plan_folder
    planned = plan(opened, to, destination)  # refuses before anything is computed

    batches = sample_ids(opened)
    expected = opened.logits(batches)
    with staged(destination) as path:
        tensors = opened.tensors()
        parameters, dtype = sum(tensor.numel() for tensor in tensors.values()), widest(tensors.values())
        planned.write(tensors, path)
        del tensors
        differences = compare(expected, logits_of(lambda: planned.load(path), batches))
        if not max(differences) <= LARGEST_DIFFERENCE:  # so written, NaN is refused as well
            raise ValueError(
                f"The {to} model's logits differ from the source's by {max(differences):.2g}, more than "
                f"{LARGEST_DIFFERENCE:g}: nothing was written. Please report this checkpoint's config.json."
            )
        if opened.tokenizer is not None:
            check_tokenizer(opened.tokenizer, planned.load_tokenizer(path))
    return Conversion(
        source=str(source),
        kind=opened.kind,
        to=to,
        destination=destination,
        parameters=parameters,
        dtype=str(dtype).removeprefix("torch."),
        random_difference=differences[0],
        text_difference=differences[1] if len(differences) > 1 else None,
        seconds=time.perf_counter() - start,
    )


# Reading


def open_source(source: str) -> Source:
    """Find out what `source` is, and check its config and the names and shapes of its weights."""
    path = Path(source).expanduser()
    if path.is_file() and path.suffix in (".pt", ".pth"):
        from .nanogpt import open_nanogpt

        return open_nanogpt(path)
    folder = find_checkpoint(source)
    written = read_config(folder)
    kind = written.get("model_type")
    if kind != "folio" and kind not in ARCHITECTURES:
        known = ", ".join(("folio", *ARCHITECTURES))
        raise ValueError(f"{folder} has model_type {kind!r}: known are {known}, and nanoGPT's .pt files.")
    check_written_config(written, folder)
    config, model_class = _load_config(folder, kind), FolioForCausalLM
    folio_config = config
    if kind == "folio":
        check_folio_config(written, config)
    else:
        folio_config, model_class = to_folio_config(config), ARCHITECTURES[kind].model_class

    stored = named_for(model_class, stored_tensors(folder))
    check_shapes({name: t.shape for name, t in stored.items()}, shapes_of(model_class, config), tied(config), folder)
    if numbers := [name for name, tensor in stored.items() if tensor.dtype is None]:
        raise ValueError(f"{some(numbers)} in {folder} is quantized: convert the model it was quantized from.")
    if config.tie_word_embeddings:
        drop_tied_head(stored, model_class, folder)
    dtype = widest(stored.values())

    def load():
        return model_class.from_pretrained(None, config=config, state_dict=dict(stored), dtype=dtype)

    def tensors() -> dict[str, torch.Tensor]:
        weights = [] if kind == "folio" else ARCHITECTURES[kind].weights(config.num_hidden_layers)
        return to_ours({name: tensor[...] for name, tensor in stored.items()}, weights)

    return Source(
        kind=kind,
        config=folio_config,
        tensors=tensors,
        logits=lambda batches: logits_of(load, batches),
        tokenizer=load_tokenizer(folder),
        folder=folder,
    )


def _load_config(folder: Path, kind: str) -> PreTrainedConfig:
    config_class = FolioConfig if kind == "folio" else AutoConfig
    try:
        return config_class.from_pretrained(folder, local_files_only=True)
    except StrictDataclassError as error:
        raise ValueError(f"{folder / 'config.json'} is refused: {error.__cause__ or error}") from None
    except (TypeError, KeyError, AttributeError) as error:  # of a value that transformers did not expect
        raise ValueError(f"{folder / 'config.json'} is damaged: {type(error).__name__} {error}") from None


def check_written_config(written: dict, folder: Path) -> None:
    """Refuse a model that is no plain causal language model."""
    for name in written.get("architectures") or []:
        if not str(name).endswith(("ForCausalLM", "LMHeadModel")):
            raise ValueError(f"architectures is [{name!r}] in {folder}: only causal language models can be converted.")
    if written.get("quantization_config"):
        raise ValueError(f"quantization_config is set in {folder}: convert the model it was quantized from.")


def check_folio_config(written: dict, config: FolioConfig) -> None:
    """Refuse an encoder, and a checkpoint with choices that this version has never heard of."""
    if not config.is_causal:
        raise ValueError("is_causal is False: an encoder; only causal language models can be converted.")
    known = {*FolioConfig().to_dict(), *vars(PreTrainedConfig()), "auto_map", "torch_dtype", "_name_or_path"}
    known |= {"rope_theta", "rope_scaling", "transformers_version", "architectures", "dtype", "use_return_dict"}
    if unknown := sorted(set(written) - known):
        raise ValueError(
            f"config.json has {', '.join(unknown)}, which this version of FolioGPT does not know, so it would compute "
            "something else: upgrade foliogpt, or remove the entry if it is a note of your own."
        )


def named_for(model_class: type, stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors under the names that `model_class` has, without what it computes itself."""
    prefix = f"{model_class.base_model_prefix}."
    if not any(name.startswith(prefix) for name in stored):  # saved from the model without its head, as gpt2 was
        stored = {name if name == "lm_head.weight" else prefix + name: tensor for name, tensor in stored.items()}
    computed = [r"\.attn\.(masked_)?bias$", r"rotary_emb\.inv_freq$"]
    return {name: stored[name] for name in without(stored, computed)}


def drop_tied_head(stored: dict[str, StoredTensor], model_class: type, folder: Path) -> None:
    """A tied head is the embedding. Refuse one that was stored and is another."""
    head, embedding = next(iter(model_class._tied_weights_keys.items()))
    if head in stored and not torch.equal(stored.pop(head)[...], stored[embedding][...]):
        raise ValueError(
            f"{head} is not {embedding} in {folder}, but tie_word_embeddings is true: set it to false in config.json."
        )


def tied(config: PreTrainedConfig) -> set[str]:
    return {"lm_head.weight"} if config.tie_word_embeddings else set()


def shapes_of(model_class: type, config: PreTrainedConfig) -> dict[str, tuple]:
    return {name: tuple(tensor.shape) for name, tensor in without_memory(model_class, config).state_dict().items()}


def without_memory(model_class: type, config: PreTrainedConfig, dtype: torch.dtype = torch.float32):
    """A model that has shapes and no weights."""
    with torch.device("meta"):
        return model_class(copy.deepcopy(config)).to(dtype)


def widest(tensors: Iterable) -> torch.dtype:
    """The dtype that holds every one of the tensors exactly."""
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    if not any(next(folder.glob(name), None) for name in TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # what files that somebody else wrote can raise has no end
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"The tokenizer in {folder} does not load: {reason}") from None


# Comparing


def sample_ids(source: Source) -> list[torch.Tensor]:
    """Token ids to compare on, each (1, T): random ones, and those of a text if there is a tokenizer."""
    length = min(TOKENS, source.config.max_position_embeddings)
    vocab_size = source.config.vocab_size
    batches = [torch.randint(vocab_size, (1, length), generator=torch.Generator().manual_seed(0))]
    if source.tokenizer is not None:
        ids = source.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        if max(ids, default=0) >= vocab_size:
            raise ValueError(
                f"The tokenizer gives id {max(ids)}, but vocab_size is {vocab_size}: it is another model's tokenizer."
            )
        if ids:
            batches.append(torch.tensor([ids[:length]]))
    return batches


def logits_of(load: Callable, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """Logits (1, T, V) of a model for each batch of ids. The model is gone from memory afterwards."""
    model = load().eval()
    compute_in_float32(model)
    with torch.no_grad():
        logits = [model(ids, use_cache=False).logits for ids in batches]
    del model
    gc.collect()  # modules refer to themselves
    return logits


def compute_in_float32(model: torch.nn.Module) -> None:
    """Make each module cast its weights to float32 while it runs: exact, at the memory of the stored dtype."""

    def widen(module, inputs):
        module.stored = [parameter.data for parameter in module.parameters(recurse=False)]
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.float()

    def restore(module, inputs, output):
        for parameter, stored in zip(module.parameters(recurse=False), module.stored, strict=True):
            parameter.data = stored
        del module.stored

    for module in model.modules():
        if any(parameter.dtype != torch.float32 for parameter in module.parameters(recurse=False)):
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(restore)


def compare(expected: list[torch.Tensor], got: list[torch.Tensor]) -> list[float]:
    """The largest difference of a logit in each batch."""
    return [(a.float() - b.float()).abs().max().item() for a, b in zip(expected, got, strict=True)]


def check_tokenizer(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> None:
    if after(TEXT)["input_ids"] != before(TEXT)["input_ids"]:
        raise ValueError(
            f"The tokenizer ({type(before).__name__}) becomes {type(after).__name__} there and gives other ids: "
            "nothing was written. Please report this checkpoint's tokenizer_config.json."
        )


# Writing


def plan_folder(source: Source, to: str, destination: Path) -> Plan:
    """A directory that transformers opens.

    Raises:
        ValueError: if `to` cannot express the source's config.
    """
    config, architecture = source.config, None
    if to != "folio":
        config, architecture = to_native_config(source.config, to), ARCHITECTURES[to]
    model_class = FolioForCausalLM if architecture is None else architecture.model_class

    def write(tensors: dict[str, torch.Tensor], folder: Path) -> None:
        model = without_memory(model_class, config, widest(tensors.values()))
        model.save_pretrained(folder, state_dict=for_target(tensors, config, architecture))
        write_tokenizer(source, folder)
        if source.folder is not None and (source.folder / GENERATION).is_file():
            shutil.copyfile(source.folder / GENERATION, folder / GENERATION)
        mode = (folder / "config.json").stat().st_mode
        for file in folder.iterdir():
            file.chmod(mode)  # safetensors lets nobody else read what it writes

    def load(folder: Path):
        return model_class.from_pretrained(folder, dtype="auto", local_files_only=True)

    return Plan(write, load, load_tokenizer)


def for_target(
    tensors: dict[str, torch.Tensor], config: PreTrainedConfig, architecture: Architecture | None
) -> dict[str, torch.Tensor]:
    """Folio's weights as the target stores them."""
    if architecture is None or architecture.layer is None:
        return tensors
    shapes = shapes_of(architecture.model_class, config)
    return to_theirs(tensors, architecture.weights(config.num_hidden_layers), shapes)


def write_tokenizer(source: Source, folder: Path) -> None:
    """The tokenizer as transformers saves it, which names its class, and what other files of its the source has."""
    if source.tokenizer is None:
        return
    source.tokenizer.save_pretrained(folder)
    for pattern in TOKENIZER_FILES if source.folder is not None else ():
        for file in source.folder.glob(pattern):
            if not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)


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
