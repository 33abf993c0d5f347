"""Serve a checkpoint over OpenAI's HTTP API: completions and chat, whole or streamed.

    folio serve --model runs/quickstart
    folio serve --model runs/quickstart --port 8123
    curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
        -d '{"model": "quickstart", "prompt": "The for statement", "max_tokens": 40}'

Ctrl-C ends it. The clients' `model` is the directory's name, or the name on the Hub.
"""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class ServeArguments:
    model: str = field(metadata={"help": "a checkpoint's or adapter's directory or Hub name"})
    host: str = field(default="127.0.0.1", metadata={"help": "the address to listen at; 0.0.0.0 lets others in"})
    port: int = field(default=8000, metadata={"help": "0 takes a free one"})


def main(argv: list[str]) -> None:
    from .arguments import parse

    (args,) = parse(argv, [ServeArguments], "folio serve", __doc__)
    from ..checkpoints.loading import load_model
    from ..checkpoints.self_check import check_cache
    from ..serving.http_server import bind, serve
    from ..serving.openai_api import Api
    from ..tokenization import encode_chat

    bound = bind(args.host, args.port)  # first: loading takes longer than finding out that the port is taken
    model, tokenizer = load_model(args.model)
    check_cache(model)
    path = Path(args.model).expanduser()
    name = path.resolve().name if path.is_dir() else args.model
    address, port = bound.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    if not ipaddress.ip_address(address).is_loopback:
        print("There is no authentication: whoever reaches this machine can use the model.", flush=True)
    print(f"Serving {name} at http://{host}:{port}/v1 (Ctrl-C ends it)", flush=True)
    api = Api(name, model, tokenizer, encode_chat)
    serve(api.application(), api.generator, bound)
    print("Stopped.")
