"""The fields of FolioConfig as settings: each is a flag of the commands that train a model."""

import copy
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import make_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from ..jobs.options import option, switch
from ..modeling import FolioConfig

T = TypeVar("T")
ENTRY = re.compile(r"^ {8}(\w[\w, ]*): (.+(?:\n {12}.+)*)", re.MULTILINE)  # of the arguments in a docstring
OTHER = re.compile(r"[;,] `None` means[^;]*|`|\.$")  # None has another meaning there
HELP = {
    name: OTHER.sub("", " ".join(text.split()))
    for names, text in ENTRY.findall(FolioConfig.__doc__ or "")
    for name in names.split(", ")
}
# The tokenizer, --block_size, Trainer and the task of predicting the next token set these.
NOT_FLAGS = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "max_position_embeddings", "use_cache",
             "is_causal", "is_decoder", "add_cross_attention"}  # fmt: skip
FIELDS = tuple(name for name in FolioConfig.__annotations__ if name not in NOT_FLAGS)
# Names of --dropout's fields in the configs of several architectures.
DROPOUTS = ("attention_dropout", "hidden_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout_prob",
            "attention_probs_dropout_prob", "dropout")  # fmt: skip


def with_config_fields(without: Iterable[str] = ()) -> Callable[[type[T]], type[T]]:
    """Add `dropout` and the fields of FolioConfig, but those `without`, to a dataclass; None if they are not given."""
    help = "share of attention weights, embeddings and sublayer outputs that is set to zero at random"
    settings = [("dropout", float | None, option(None, help))]
    settings += [_setting(name) for name in FIELDS if name not in without]

    def extend(cls: type[T]) -> type[T]:
        known = {"__module__": cls.__module__, "__doc__": cls.__doc__, "RARE": FIELDS[3:]}  # of the help
        extended: Any = make_dataclass(cls.__name__, settings, bases=(cls,), namespace=known)
        return extended

    return extend


def read_fields(settings: Any) -> None:
    """Read the fields that are given as JSON; raises ValueError for other text or a dropout out of range."""
    if isinstance(text := settings.rope_parameters, str):
        try:
            settings.rope_parameters = dict(json.loads(text))
        except (ValueError, TypeError):
            raise ValueError(f"rope_parameters is {text!r}: give JSON, such as '{{\"rope_theta\": 5000.0}}'.") from None
    for name in DROPOUTS:
        if (share := getattr(settings, name, None)) is not None and not 0 <= share < 1:
            raise ValueError(f"{name} is {share}: give a number from 0 to less than 1.")


def chosen_fields(settings: Any, config: Any = FolioConfig) -> dict[str, Any]:
    """Return the given fields under the names of `config`; raises ValueError for one that it does not have."""
    chosen = {name: value for name in FIELDS if (value := getattr(settings, name, None)) is not None}
    if settings.dropout is not None:
        names = [name for name in DROPOUTS if hasattr(config, name)] or ["dropout"]
        chosen = {**dict.fromkeys(names, settings.dropout), **chosen}
    if unknown := [name for name in chosen if not hasattr(config, name)]:
        raise ValueError(f"A model of type {config.model_type} has no {unknown[0]}: leave it out.")
    return copy.deepcopy(chosen)


def _setting(name: str) -> tuple[str, Any, Any]:
    """Return name, type and option of a field."""
    kind = FolioConfig.__annotations__[name]
    if get_args(kind) and get_origin(kind) is not Literal:
        kind = get_args(kind)[0]  # of `kind | None`
    if kind is dict:
        return name, dict | str | None, option(None, HELP[name] + "; as JSON")
    return name, kind | None, switch(HELP[name]) if kind is bool else option(None, HELP[name])
