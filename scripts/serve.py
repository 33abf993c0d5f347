"""Serve a checkpoint over OpenAI's HTTP API: completions and chat, whole or streamed.

    folio serve --model runs/quickstart
    folio serve --model runs/quickstart --port 8123
    folio serve --model runs/quickstart --prompt_lookup_num_tokens 5
    curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
        -d '{"model": "quickstart", "prompt": "The for statement", "max_tokens": 40}'

Ctrl-C ends it. The clients' `model` is the directory's name, or the name on the Hub. Other users of the machine see the
command line: write `api_key: KEY` into a file that only you can read, and give it with --config.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class ServeArguments:
    model: str = field(metadata={"help": "a checkpoint's or adapter's directory or Hub name"})
    assistant_model: str = field(default="", metadata={"help": "a smaller model of the same tokenizer, which drafts"})
    prompt_lookup_num_tokens: int | None = field(
        default=None, metadata={"help": "draft that many tokens from what the text has said before"}
    )
    host: str = field(default="127.0.0.1", metadata={"help": "the address to listen at; 0.0.0.0 lets others in"})
    port: int = field(default=8000, metadata={"help": "0 takes a free one"})
    api_key: str | None = field(default=None, metadata={"help": "clients must send it; others are refused"})
    allow_origin: list[str] = field(
        default_factory=list, metadata={"help": "origins of pages that may use it (CORS): https://example.com"}
    )


def main(argv: list[str]) -> None:
    from .arguments import parse

    (args,) = parse(argv, [ServeArguments], "folio serve", __doc__)
    from ..serving.http_server import address_of, bind, guarded, is_local, serve

    if args.api_key is not None and not re.fullmatch(r"[!-~]+", args.api_key):
        raise ValueError("--api_key must be printable ASCII characters without spaces: give another key.")
    for origin in args.allow_origin:
        if origin == "*" or origin.count("/") != 2 or "://" not in origin:
            raise ValueError(f"--allow_origin is {origin!r}: give one origin each, as in https://example.com")
    if args.prompt_lookup_num_tokens is not None and args.prompt_lookup_num_tokens < 1:
        raise ValueError(f"--prompt_lookup_num_tokens is {args.prompt_lookup_num_tokens}: give 1 or more.")
    bound = bind(args.host, args.port)  # first: loading takes longer than finding out that the port is taken
    if args.api_key is None and not is_local(bound):
        raise ValueError(f"--host {args.host} lets other machines in: set a key that clients must send with --api_key.")
    from ..checkpoints.loading import load_model
    from ..checkpoints.self_check import check_cache
    from ..serving.generator import Choice, generation_config
    from ..serving.openai_api import Api
    from ..tokenization import encode_chat
    from .generation import load_assistant

    model, tokenizer = load_model(args.model)
    check_cache(model)
    assistant = load_assistant(args.assistant_model, model, tokenizer)
    path = Path(args.model).expanduser()
    name = path.resolve().name if path.is_dir() else args.model
    model.generation_config.prompt_lookup_num_tokens = args.prompt_lookup_num_tokens
    api = Api(name, model, tokenizer, encode_chat)
    api.generator.assistant = assistant
    api.generator.try_out(Choice([0], generation_config(model, 1)))  # not every model can be drafted for
    print(f"Serving {name} at http://{address_of(bound)}/v1 (Ctrl-C ends it)", flush=True)
    if (why := api.generator.why_alone) is not None:
        print(f"Texts are generated one after another: {why}.", flush=True)
    serve(guarded(api.application(), bound, args.allow_origin, args.api_key), api.generator, bound)
    print("Stopped.")
