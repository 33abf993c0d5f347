"""Sum up a dialogue or a text with a model that was fine-tuned to: `folio finetune sft` on dialogues with summaries.

    folio summarize --model runs/summaries --text "Amanda: I baked cookies. Do you want some? Jerry: Sure!"
    folio summarize --model runs/summaries --file dialogue.txt --num_beams 4
    folio summarize --model runs/summaries < dialogue.txt

A text that has no room in the model's context is refused; with --truncate, its end is left out. Any other option is a
field of transformers' GenerationConfig; without any, the likeliest token is taken each time.
"""

from dataclasses import dataclass, field


@dataclass
class SummarizeArguments:
    model: str = field(metadata={"help": "a checkpoint's or an adapter's directory or Hub name"})
    text: str | None = field(default=None, metadata={"help": "what to sum up"})
    file: str | None = field(default=None, metadata={"help": "a file with what to sum up"})
    truncate: bool = field(default=False, metadata={"help": "leave out the end of a text that has no room"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code in the checkpoint; not for ours"})


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
