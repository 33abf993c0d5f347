"""Continue a prompt with a checkpoint, ours or any causal language model.

    folio generate --model runs/quickstart --prompt "The for statement"
    folio generate --model runs/quickstart --prompt "The for statement" --do_sample false --max_new_tokens 40
    folio generate --model runs/quickstart --prompt "The for statement" --temperature 0.7 --top_k 20 --seed 1
    folio generate --model runs/quickstart --prompt "The for statement" --do_sample false --prompt_lookup_num_tokens 5
    folio generate --model runs/quickstart --prompt "The for statement" --quantize int8

Any other option is a field of transformers' GenerationConfig.
"""

from dataclasses import dataclass, field

from ..jobs.options import option
from .model_arguments import ModelArguments


@dataclass(kw_only=True)
class GenerateArguments(ModelArguments):
    prompt: str = field(metadata={"help": "text to continue"})
    seed: int | None = option(None, "random seed, which makes sampling repeatable")


def main(argv: list[str]) -> None:
    import transformers

    from ..tokenization import encode_texts
    from .arguments import parse_with_generation
    from .generation import print_generated

    args, options = parse_with_generation(argv, GenerateArguments, "folio generate", __doc__)
    if not args.prompt:
        raise ValueError("The prompt is empty: give some text with --prompt.")
    if args.seed is not None:
        transformers.set_seed(args.seed)
    model, tokenizer, assistant = args.load()
    # What the model expects before a text, its beginning-of-text token for instance, then the prompt as mere text.
    ids = tokenizer("")["input_ids"] + encode_texts(tokenizer, [args.prompt])[0]
    print_generated(model, tokenizer, ids, options, with_prompt=True, assistant=assistant)
