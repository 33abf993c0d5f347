"""Options of the model in the commands that generate text."""

from dataclasses import dataclass, field

from ..jobs.options import option


@dataclass(kw_only=True)
class ModelArguments:
    """The model that generates, and what makes it smaller or faster."""

    model: str = field(metadata={"help": "directory or Hub name of a checkpoint or adapter"})
    quantize: str | None = option(None, "hold the weights in fewer bits", choices=["int8", "int4"])
    assistant_model: str = option("", "smaller model with the same tokenizer, which drafts tokens (same text, sooner)")
    trust_remote_code: bool = option(False, "allow Python code from the checkpoint to run (not needed for ours)")

    def load(self) -> tuple:
        """Return the model, its tokenizer, and the model that drafts for it, or None; raise OSError, ValueError."""
        from ..checkpoints.loading import load_model
        from ..checkpoints.quantization import quantize

        model, tokenizer = load_model(self.model, trust_remote_code=self.trust_remote_code)
        if self.quantize:
            quantize(model, self.quantize)
        if not self.assistant_model:
            return model, tokenizer, None
        assistant, own = load_model(self.assistant_model)
        sizes = [each.config.get_text_config().vocab_size for each in (model, assistant)]
        if own.get_vocab() != tokenizer.get_vocab() or sizes[0] != sizes[1]:
            remedy = "name a model with the same tokenizer"
            raise ValueError(f"--assistant_model {self.assistant_model} has another vocabulary: {remedy}.")
        return model, tokenizer, assistant
