"""Continue a prompt with a checkpoint, ours or any causal language model.

    folio generate --model runs/quickstart --prompt "The for statement"
    folio generate --model runs/quickstart --prompt "The for statement" --do_sample false --max_new_tokens 40
    folio generate --model runs/quickstart --prompt "The for statement" --temperature 0.7 --top_k 20 --seed 1
    folio generate --model runs/quickstart --prompt "The for statement" --do_sample false --prompt_lookup_num_tokens 5

Any other option is a field of transformers' GenerationConfig.
"""

from dataclasses import dataclass, field


@dataclass
class GenerateArguments:
    model: str = field(metadata={"help": "a checkpoint's or adapter's directory or Hub name"})
    prompt: str = field(metadata={"help": "the text to continue"})
    seed: int | None = field(default=None, metadata={"help": "makes sampling repeatable"})
    assistant_model: str = field(default="", metadata={"help": "a smaller model of the same tokenizer, which drafts"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code in the checkpoint; not for ours"})


def main(argv: list[str]) -> None:
    import transformers

    from ..checkpoints.loading import load_model
    from ..tokenization import encode_texts
    from .arguments import parse_with_generation
    from .generation import load_assistant, print_generated

    args, options = parse_with_generation(argv, GenerateArguments, "folio generate", __doc__)
    if not args.prompt:
        raise ValueError("The prompt is empty: give some text with --prompt.")
    if args.seed is not None:
        transformers.set_seed(args.seed)
    model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code)
    assistant = load_assistant(args.assistant_model, model, tokenizer)
    # What the model expects before a text, its beginning-of-text token for instance, then the prompt as mere text.
    ids = tokenizer("")["input_ids"] + encode_texts(tokenizer, [args.prompt])[0]
    print_generated(model, tokenizer, ids, options, with_prompt=True, assistant=assistant)
