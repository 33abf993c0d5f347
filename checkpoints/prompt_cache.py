"""The key-value cache for adapters that put vectors before the text of a stock model.

transformers 5.24 passes it as `cache`. PEFT 0.21 looks for `past_key_values`, and without it puts the vectors before
every new token. Our models pass it by both names.
"""

import functools
from typing import Any


def pass_cache_by_old_name(adapted: Any) -> None:
    """Rename the cache for a `peft.PeftModel` while it prepares a step of generation, and back for its base."""
    of_base = getattr(adapted, "base_model_prepare_inputs_for_generation", None)  # None: the model does not generate
    if not adapted.active_peft_config.is_prompt_learning or of_base is None:
        return
    of_peft = adapted.prepare_inputs_for_generation

    @functools.wraps(of_base)  # `generate` reads the names of their arguments
    def for_peft(*args, **kwargs):
        inputs = of_base(*args, **kwargs)
        if "cache" in inputs and "past_key_values" not in inputs:
            inputs |= {"past_key_values": inputs.pop("cache"), "renamed": True}
        return inputs

    @functools.wraps(of_peft)
    def for_base(*args, **kwargs):
        inputs = of_peft(*args, **kwargs)
        if inputs.pop("renamed", False):
            inputs["cache"] = inputs.pop("past_key_values")
        return inputs

    adapted.base_model_prepare_inputs_for_generation, adapted.prepare_inputs_for_generation = for_peft, for_base
