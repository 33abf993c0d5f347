"""nanoGPT's checkpoints: `ckpt.pt`, and the characters in its `meta.pkl`. Both are pickles, and neither can run code.

What they look like: github.com/karpathy/nanoGPT, `train.py` (the checkpoint) and `data/shakespeare_char/prepare.py`.
"""

import functools
import pickle
import zipfile
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..jobs.errors import first_line
from ..modeling.modeling_folio import FolioForCausalLM
from .native import ARCHITECTURES, to_folio_config, to_ours
from .sources import Source, load_tokenizer, logits_of, shapes_of, widest
from .weight_files import DTYPES, check_shapes, some

GPT2, GPT2_TOKENS = "openai-community/gpt2", 50257
DAMAGE = (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


class PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists and dicts. Whatever else a pickle asks for, nothing is imported, nothing called."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def open_nanogpt(path: Path) -> Source:
    """Read a nanoGPT checkpoint and find its tokenizer.

    Raises ValueError if it is no such checkpoint, is damaged, or holds more than tensors and plain values;
    FileNotFoundError if there is no tokenizer for it.
    """
    args, stored, dataset = read_checkpoint(path)
    bias, native = args.get("bias", True), native_config(args)
    config = to_folio_config(native)
    config.attention_bias = config.mlp_bias = bias
    # GPT-2's names, but the matrices of nn.Linear. Without biases it computes what a GPT-2 with zeros does.
    weights, shapes = ARCHITECTURES["gpt2"].weights(args["n_layer"]), shapes_of(GPT2LMHeadModel, native)
    turned = {weight.theirs for weight in weights if weight.transposed}
    expected = {name: shape[::-1] if name in turned else shape for name, shape in shapes.items()}
    expected = {name: shape for name, shape in expected.items() if bias or not name.endswith(".bias")}
    check_shapes({name: tuple(tensor.shape) for name, tensor in stored.items()}, expected, {"lm_head.weight"}, path)
    head = stored.pop("lm_head.weight", None)  # the embedding, once more
    if head is not None and not torch.equal(head, stored["transformer.wte.weight"]):
        raise ValueError(f"{path}: lm_head.weight is not transformer.wte.weight, but nanoGPT ties them: another model.")
    dtype = widest(stored.values())
    tokenizer = find_tokenizer(path, dataset, args["vocab_size"])
    if isinstance(tokenizer.eos_token_id, int):
        config.eos_token_id = config.bos_token_id = tokenizer.eos_token_id

    def theirs() -> dict[str, torch.Tensor]:
        biases = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items() if name.endswith(".bias")}
        return biases | {name: tensor.T if name in turned else tensor for name, tensor in stored.items()}

    def ours() -> dict[str, torch.Tensor]:
        wanted = shapes_of(FolioForCausalLM, config)
        return {name: tensor for name, tensor in to_ours(theirs(), weights).items() if name in wanted}

    def load() -> GPT2LMHeadModel:
        return GPT2LMHeadModel.from_pretrained(None, config=native, state_dict=theirs(), dtype=dtype)

    return Source("nanogpt", config, dtype, ours, functools.partial(logits_of, load), tokenizer, folder=None)


def read_checkpoint(path: Path) -> tuple[dict, dict[str, torch.Tensor], str]:
    """The model's arguments, its weights, and the name of the data set it was trained on ("" if unknown)."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is cut off or is no checkpoint of torch's: it is not a zip archive.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "it is no checkpoint of torch's")
        why = f"it is not read, for unpickling can run code ({' '.join(reason.split())[:200]})"
        raise ValueError(f"{path} holds more than tensors and plain values, or is damaged; {why}.") from None
    except DAMAGE as error:
        raise ValueError(f"{path} is cut off or is no checkpoint of torch's: {first_line(error)}") from None
    args, weights = (checkpoint.get(key) if isinstance(checkpoint, dict) else None for key in ("model_args", "model"))
    if not isinstance(args, dict) or not isinstance(weights, dict):
        raise ValueError(f"{path} is not nanoGPT's: it has no `model_args` and `model`.")
    for name in SIZES:
        if type(args.get(name)) is not int or not 1 <= args[name] < 2**31:
            raise ValueError(f"{path}: model_args has {name}={args.get(name)!r}; it must be a whole number from 1 on.")
    dropout = args.get("dropout", 0.0)
    if type(args.get("bias", True)) is not bool or type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError(f"{path}: model_args has bias={args.get('bias')!r} and dropout={args.get('dropout')!r}.")
    if args["n_embd"] % args["n_head"]:
        raise ValueError(f"{path}: n_embd ({args['n_embd']}) is not a multiple of n_head ({args['n_head']}).")
    tensors = {
        str(name).removeprefix("_orig_mod."): tensor  # the prefix is torch.compile's
        for name, tensor in weights.items()
        if isinstance(tensor, torch.Tensor) and not str(name).endswith(".attn.bias")  # the mask, of older versions
    }
    if args["n_layer"] > len(tensors):
        raise ValueError(f"{path}: model_args has n_layer={args['n_layer']}, but there are {len(tensors)} tensors.")
    if sparse := [name for name, tensor in tensors.items() if tensor.layout != torch.strided]:
        raise ValueError(f"{path}: {some(sparse)} is sparse: only dense weights can be converted.")
    if others := [name for name, tensor in tensors.items() if tensor.dtype not in DTYPES.values()]:
        raise ValueError(f"{path}: {some(others)} is neither float32, bfloat16 nor float16.")
    settings = checkpoint.get("config")
    dataset = settings.get("dataset", "") if isinstance(settings, dict) else ""
    return args, tensors, Path(str(dataset)).name


def native_config(args: dict) -> GPT2Config:
    """The config of the GPT-2 that computes the same, if there are biases."""
    sizes = {name: args[name] for name in ("vocab_size", "n_embd", "n_layer", "n_head")}
    sizes["n_positions"] = args["block_size"]
    others = {"activation_function": "gelu", "bos_token_id": None, "eos_token_id": None}
    return GPT2Config(**sizes, **others, **dict.fromkeys(("attn_pdrop", "resid_pdrop"), args.get("dropout", 0.0)))


def find_tokenizer(path: Path, dataset: str, vocab_size: int) -> PreTrainedTokenizerBase:
    """The characters of `meta.pkl`, or without one GPT-2's tokens, as nanoGPT's `sample.py` decides."""
    folders = [path.parent]
    if dataset:
        folders += [root / "data" / dataset for root in (path.parent, path.absolute().parent.parent, Path())]
    for meta in (folder / "meta.pkl" for folder in folders):
        if meta.is_file():
            return character_tokenizer(read_meta(meta, vocab_size))
    if vocab_size < GPT2_TOKENS:
        remedy = "copy the meta.pkl of its data set beside it"
        raise FileNotFoundError(f"{path} has a vocabulary of {vocab_size}, so not GPT-2's: {remedy}.")
    if (path.parent / "tokenizer.json").is_file():
        return load_tokenizer(path.parent)
    try:
        return AutoTokenizer.from_pretrained(GPT2)
    except Exception:  # offline, in one of many ways
        why = f"so its tokens are GPT-2's, and {GPT2} on the Hub is not within reach"
        remedy = f"copy its tokenizer.json and tokenizer_config.json beside {path.name}"
        raise OSError(f"There is no meta.pkl beside {path}, {why}: {remedy}.") from None


def read_meta(path: Path, vocab_size: int) -> dict[str, int]:
    """The id of each character."""
    try:
        with path.open("rb") as file:
            meta = PlainUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises whatever its last bytes happen to mean
        raise ValueError(f"{path} is damaged or no plain dict, so it is not read: {error}") from None
    ids = meta.get("stoi") if isinstance(meta, dict) else None
    if not isinstance(ids, dict) or not all(isinstance(c, str) and len(c) == 1 for c in ids):
        raise ValueError(f"{path} has no `stoi` with an id for each character.")
    if not all(type(i) is int and 0 <= i < vocab_size for i in ids.values()) or len(set(ids.values())) < len(ids):
        raise ValueError(f"{path}: the ids in `stoi` must differ and be below the model's vocab_size, {vocab_size}.")
    return ids


def character_tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    """One token a character. Characters that nanoGPT would stop at are left out."""
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
