"""Summarize a dialogue or a text with a model of `folio finetune sft` on dialogues with summaries.

    folio summarize --model runs/summaries --text "Amanda: I baked cookies. Do you want some? Jerry: Sure!"
    folio summarize --model runs/summaries --file dialogue.txt --num_beams 4
    folio summarize --model runs/summaries < dialogue.txt

A text that does not fit into the model's context is rejected; with --truncate, its end is left out. Any other option
is a field of transformers' GenerationConfig. The default is greedy decoding.
"""

from dataclasses import dataclass, field


@dataclass
class SummarizeArguments:
    model: str = field(metadata={"help": "directory or Hub name of a checkpoint or adapter"})
    text: str | None = field(default=None, metadata={"help": "text to summarize"})
    file: str | None = field(default=None, metadata={"help": "file with the text to summarize"})
    truncate: bool = field(default=False, metadata={"help": "leave out the end of a text that is too long"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the checkpoint's Python code (not for ours)"})


def main(argv: list[str]) -> None:
    from ..checkpoints.loading import load_model
    from ..data.formats import SUMMARIZE
    from .arguments import parse_with_generation
    from .generation import print_reply
    from .inputs import read_text

    args, options = parse_with_generation(argv, SummarizeArguments, "folio summarize", __doc__)
    text = read_text(args.text, args.file).strip()
    model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code)
    print_reply(model, tokenizer, lambda text: SUMMARIZE.format(dialogue=text), text, options, args.truncate)
