"""Loading what the user named with --model."""

import os


def load_causal_lm(name: str, trust_remote_code: bool = False) -> tuple:
    """The model and tokenizer of a causal language model, on this machine's accelerator if it has one.

    Args:
        name: a checkpoint's directory or Hub name.

    Raises:
        OSError: if there is no whole checkpoint; the message says why.
        ValueError: if it is one for something else.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .. import modeling  # noqa: F401  makes our checkpoints load without remote code

    transformers.logging.set_verbosity_error()
    source = os.path.expanduser(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        model, info = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            source, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # what files that somebody else wrote can raise has no end
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OSError(
            f"{name} is not a whole checkpoint's directory, nor a model on the Hub within reach ({reason})"
        ) from None
    if info["missing_keys"] or getattr(model.config, "is_causal", True) is False:
        raise ValueError(f"{name} is no causal language model, which could continue text: name one that is.")
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    return model, tokenizer
