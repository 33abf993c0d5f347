"""Answer a question from a text: quote the answer from it, or generate one, depending on the model.

    folio answer --model runs/reader --question "Who is Juliet?" --file play.txt
    folio answer --model runs/chat --question "Who is Juliet?" --context "Juliet is a Capulet." --max_new_tokens 30

A model with a question-answering head (`folio finetune qa`) marks the answer in a text of any length. A causal language
model generates one. Then the text must fit into its context, or --truncate leaves out its end, and any other option is
a field of transformers' GenerationConfig. The default is greedy decoding.
"""

from dataclasses import dataclass, field
from functools import partial


@dataclass
class AnswerArguments:
    model: str = field(metadata={"help": "directory or Hub name of a checkpoint or adapter"})
    question: str = field(metadata={"help": "question to answer"})
    context: str | None = field(default=None, metadata={"help": "text that contains the answer"})
    file: str | None = field(default=None, metadata={"help": "file with the text that contains the answer"})
    truncate: bool = field(default=False, metadata={"help": "leave out the end of a text that is too long"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the checkpoint's Python code (not for ours)"})


def main(argv: list[str]) -> None:
    from ..checkpoints.loading import load_model, task_of
    from ..data.formats import ANSWER, NO_ANSWER
    from ..evaluation.inference import Subject
    from ..evaluation.spans import find_answers
    from .arguments import parse_with_generation
    from .generation import print_reply
    from .inputs import read_text

    args, options = parse_with_generation(argv, AnswerArguments, "folio answer", __doc__)
    if not args.question.strip():
        raise ValueError("The question is empty: give one with --question.")
    context = read_text(args.context, args.file, "context")
    marks = task_of(args.model, args.trust_remote_code) == "qa"
    model, tokenizer = load_model(args.model, "qa" if marks else "lm", args.trust_remote_code)
    if not marks:
        prompt = partial(ANSWER.format, question=args.question)
        return print_reply(model, tokenizer, lambda text: prompt(context=text), context, options, args.truncate)
    if options:
        raise ValueError(f"{args.model} marks answers and generates none: leave out --{next(iter(options))}.")
    (span,) = find_answers(Subject(model, tokenizer), [args.question], [context])
    print(context[slice(*span)] if span else NO_ANSWER)
