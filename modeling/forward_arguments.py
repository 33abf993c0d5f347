"""The arguments of `forward`: the key-value cache under either of its names; unknown arguments are rejected.

transformers 5.24 renamed `past_key_values` to `cache`, and 5.40 drops the old name. A model that takes one name and
ignores the other generates with a cache that it never reads.
"""

import functools
import inspect

from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import TransformersKwargs

# What transformers calls the cache in masks, outputs and layers.
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
# What transformers and its libraries pass beside the parameters, and its decorators, losses and kernels read.
READ_BY_TRANSFORMERS = {
    *TransformersKwargs.__annotations__,
    *("cache", "return_dict", "output_cross_attentions", "ignore_index", "shift_labels"),
    "tokenizer",  # of `generate`, which needs it for stop strings and hands it on
}


def checked_arguments(forward):
    """Wrap a model's `forward`, whose parameter is `cache`: accept both names, and reject unknown arguments.

    Raises:
        TypeError: when called with an argument that would be ignored.
    """
    parameters = inspect.signature(forward).parameters
    known = (parameters.keys() | READ_BY_TRANSFORMERS) - {"self", "kwargs"}

    @functools.wraps(forward)
    def wrapper(self, *args, **kwargs):
        if (past := kwargs.pop("past_key_values", None)) is not None:
            cache = kwargs.get("cache")
            # PEFT gives its prefix by one name, beside the empty cache of `generate` by the other.
            if cache is None or not cache.get_seq_length():
                kwargs["cache"] = past
            elif past is not cache and past.get_seq_length():
                raise TypeError("cache and past_key_values are one argument under two names: give one of them.")
        cache = kwargs.get("cache")
        is_paged = cache is not None and not isinstance(cache, Cache)  # of continuous batching, which reads the rest
        if not is_paged:
            for name in kwargs:
                if name not in known and name not in read_by_attention(self.config):
                    raise TypeError(f"{type(self).__name__}.forward() got an unexpected keyword argument {name!r}")
        return forward(self, *args, **kwargs)

    # What others read the names of arguments from. transformers does so at every generated token; kept, it is ten
    # times cheaper.
    shown = [p.replace(name=CACHE) if name == "cache" else p for name, p in parameters.items()]
    wrapper.__signature__ = inspect.Signature(shown)
    return wrapper


def read_by_attention(config) -> set[str]:
    """List the arguments of the model's attention function, which may be a library's own, such as vLLM's."""
    function = ALL_ATTENTION_FUNCTIONS.get(config._attn_implementation)
    return set() if function is None else set(inspect.signature(function).parameters)


def update_cache(cache, keys, values, layer_idx: int, kwargs: dict):
    """Add the keys and values of new tokens to the cache; return those of all tokens so far, (B, H_kv, S, D).

    The cache of continuous batching changes `kwargs`, the arguments of the attention function; before transformers
    5.24 that function updated it.
    """
    if isinstance(cache, Cache) or CACHE == "cache":
        return cache.update(keys, values, layer_idx, kwargs=kwargs)
    kwargs["cache"] = cache
    return keys, values
