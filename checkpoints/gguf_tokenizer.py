"""Tokenizers in GGUF: vocabulary, merges, and a name for the way in which text is cut before merging."""

import json
import re
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..tokenization.bpe import cut_step

GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
AFTER_CUT = {**GPT2, "use_regex": False}
# llama.cpp's names, and the steps as tokenizer.json has them.
SPLITS = {
    "gpt-2": [GPT2],
    "smollm": [{"type": "Digits", "individual_digits": True}, GPT2],
    "llama-bpe": [cut_step("llama3"), AFTER_CUT],
    "qwen2": [cut_step("qwen2"), AFTER_CUT],
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens
SPECIAL = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}  # its names of tokens: ours


def load_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer in a GGUF file of ours; transformers alone does not know every split."""
    from gguf import GGUFReader

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    fields = {key.removeprefix("tokenizer.ggml."): field for key, field in GGUFReader(path).fields.items()}
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = [{"trim_offsets": True, **step} for step in SPLITS[fields["pre"].contents()]]
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    ids = {ours: fields[key].contents() for theirs, ours in SPECIAL.items() if (key := f"{theirs}_token_id") in fields}
    special = {f"{ours}_token": tokenizer.convert_ids_to_tokens(i) for ours, i in ids.items()}
    # Not a model's own class, which brings its own special tokens.
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)), clean_up_tokenization_spaces=False, **special
    )


def tokenizer_fields(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> dict:
    """Return a byte-level BPE tokenizer under llama.cpp's keys; raises ValueError for one that GGUF cannot hold."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{type(tokenizer).__name__} is not of the `tokenizers` library: GGUF needs such a tokenizer.")
    spec = json.loads(backend.to_str())
    vocab, added = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
    by_id = {i: token for token, i in vocab.items()}
    if max(by_id) >= vocab_size:
        what = f"The tokenizer has id {max(by_id)} ({by_id[max(by_id)]!r}), but vocab_size is {vocab_size}"
        raise ValueError(f"{what}: resize the model's embeddings, or remove the token.")
    types = [
        UNUSED if i not in by_id else NORMAL if i not in added else CONTROL if added[i].special else USER_DEFINED
        for i in range(vocab_size)
    ]
    bare, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"].get("merges", [])]
    split = split_name(spec)
    if not merges:  # without them, readers of GGUF take it for another kind of tokenizer
        raise ValueError("The tokenizer has no merges, which GGUF needs: train one with more tokens.")
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": [by_id.get(i, f"[PAD{i}]") for i in range(vocab_size)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": whole != bare and whole[0] == tokenizer.bos_token_id,
        "tokenizer.ggml.add_eos_token": whole != bare and whole[-1] == tokenizer.eos_token_id,
    }
    ids = {kind: getattr(tokenizer, f"{ours}_token_id") for kind, ours in SPECIAL.items()}
    fields |= {f"tokenizer.ggml.{kind}_token_id": i for kind, i in ids.items() if i is not None}
    if template := plain_chat_template(tokenizer):
        fields["tokenizer.chat_template"] = template
    return fields


def split_name(spec: dict) -> str:
    """Return llama.cpp's name for the way in which a tokenizer cuts text; raises ValueError if it has none."""
    model, steps, normalizer = spec["model"], spec.get("pre_tokenizer") or {}, spec.get("normalizer") or {}
    steps = steps.get("pretokenizers", [steps])
    plain = not model.get("byte_fallback") and not model.get("continuing_subword_prefix")
    if model["type"] != "BPE" or not plain or steps[-1].get("type") != "ByteLevel":
        remedy = "GGUF needs byte-level BPE, which `folio tokenizer train` makes"
        raise ValueError(f"The tokenizer is a {model['type']} that is not byte-level: {remedy}.")
    steps = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    name = next((name for name, known in SPLITS.items() if known == steps), None)
    # llama.cpp does not compose characters as NFC, Qwen's normalizer, does; nearly all text is composed already.
    if name is None or normalizer.get("type") not in (None, "NFC"):
        known = f"known are the patterns of {', '.join(SPLITS)}, without a prefix space or a normalizer"
        raise ValueError(f"The tokenizer prepares text in a way that llama.cpp has no name for: {known}.")
    return name


def plain_chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template without the tag `generation`, which only transformers knows and which prints nothing."""
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):
        template = template.get("default", "")
    tag = r"(\{%[-+]?)\s*(end)?generation\s*([-+]?%\})"
    return re.sub(tag, lambda found: f"{found[1]} {'endif' if found[2] else 'if true'} {found[3]}", template)
