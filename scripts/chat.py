"""Talk to a model in the terminal: ours, or any with a chat template.

    folio chat --model runs/chat
    folio chat --model runs/chat --system "You answer in one sentence." --temperature 0.7 --top_p 0.9 --seed 1
    printf 'Who is Juliet?\\nAnd Romeo?\\n' | folio chat --model runs/chat --do_sample false

Any other option is a field of transformers' GenerationConfig. In the chat:

    /reset       forget what was said, but for the system prompt
    /save FILE   write the chat as a line of JSON, which `folio finetune sft` can be given
    /help        list these
    /quit        end, as Ctrl-D does

Ctrl-C ends an answer, not the chat. Of a chat that is longer than the model's context, the oldest turns are forgotten.
"""

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ..jobs.options import option
from .model_arguments import ModelArguments

COMMANDS = ("/reset", "/save FILE", "/help", "/quit")


@dataclass(kw_only=True)
class ChatArguments(ModelArguments):
    system: str = option("", "system prompt")
    seed: int | None = option(None, "random seed, which makes sampling repeatable")


def main(argv: list[str]) -> None:
    import transformers

    from ..serving.chat import Chat
    from ..serving.generator import TextGenerator
    from ..tokenization import encode_chat
    from .arguments import parse_with_generation
    from .generation import options_named

    args, options = parse_with_generation(argv, ChatArguments, "folio chat", __doc__)
    if "max_length" in options:
        raise ValueError("--max_length would count the whole chat: use --max_new_tokens.")
    model, tokenizer, assistant = args.load()
    with contextlib.closing(TextGenerator(model, tokenizer, assistant)) as generator:
        session = Session(Chat(generator, tokenizer, encode_chat), args.system, options)
        with options_named(options):  # before the first message
            choice, _ = session.chat.answer([*session.system, {"role": "user", "content": "a"}], **options)
            generator.try_out(choice)
        if args.seed is not None:
            transformers.set_seed(args.seed)
        if session.interactive:
            with contextlib.suppress(ImportError):  # there is none on Windows, where the console edits
                import readline  # noqa: F401  makes input() edit, and remember
            print(f"A chat with {args.model}. /help lists the commands, Ctrl-C ends an answer, Ctrl-D the chat.")
        session.run()


class Session:
    """A chat in the terminal, or with lines that come through a pipe."""

    def __init__(self, chat, system: str, options: dict):
        self.chat, self.options = chat, options
        self.system = [{"role": "system", "content": system}] if system else []
        self.messages, self.has_forgotten = [*self.system], False
        self.interactive = sys.stdin.isatty()

    def run(self) -> None:
        while True:
            try:
                line = input("> " if self.interactive else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                print("\n(Ctrl-D or /quit ends the chat)")
                continue
            if line == "/quit":
                return
            try:
                self.obey(line) if line.startswith("/") else self.answer(line)
            except (ValueError, OSError, RuntimeError) as error:  # the chat continues
                print(f"folio chat: {' '.join(str(error).split())}", file=sys.stderr)

    def obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/reset":
            self.messages, self.has_forgotten = [*self.system], False
        elif command == "/save":
            self.save(rest.strip())
        elif command == "/help":
            print("  ".join(COMMANDS))
        else:
            raise ValueError(f"There is no {command}: the commands are {', '.join(COMMANDS)}.")

    def save(self, name: str) -> None:
        from ..evaluation.results import write_text

        if not name:
            raise ValueError("Say where: /save FILE")
        path = Path(name).expanduser()
        if path.exists():
            raise FileExistsError(f"{path} is there already: name another file.")
        write_text(path, json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        print(f"Saved to {path}.")

    def answer(self, text: str) -> None:
        if not text:
            return
        from .generation import print_answer

        asked = [*self.messages, {"role": "user", "content": text}]
        choice, forgotten = self.chat.answer(asked, **self.options)
        if forgotten and not self.has_forgotten:
            print("(the beginning of this chat has no room in the model's context any more)", file=sys.stderr)
            self.has_forgotten = True
        try:
            print_answer(self.chat.generator, choice)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
        if choice.text:
            self.messages = [*asked, {"role": "assistant", "content": choice.text}]
        else:
            print("(the model said nothing)", file=sys.stderr)
