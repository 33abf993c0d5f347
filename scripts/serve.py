"""Serve a checkpoint over OpenAI's HTTP API: completions and chats, complete or streamed, and embeddings.

    folio serve --model runs/quickstart
    folio serve --model runs/quickstart --port 8123
    folio serve --model runs/quickstart --prompt_lookup_num_tokens 5
    folio serve --model runs/chat --index runs/index
    folio serve --model runs/quickstart --embedder runs/embedder
    folio serve --model runs/quickstart --adapters runs/formal runs/friendly
    curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
        -d '{"model": "quickstart", "prompt": "The for statement", "max_tokens": 40}'

Ctrl-C ends it. The clients' `model` is the directory's name, or the name on the Hub. Other users of the machine see the
command line: write `api_key: KEY` into a file that only you can read, and give it with --config.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..jobs.options import option
from .model_arguments import ModelArguments


@dataclass(kw_only=True)
class ServeArguments(ModelArguments):
    prompt_lookup_num_tokens: int | None = option(None, "number of tokens to draft from repetitions in the text")
    host: str = option("127.0.0.1", "address to listen at; 0.0.0.0 lets other machines in")
    port: int = option(8000, "port to listen at; 0 takes a free one")
    embedder: str = option("", "sentence-transformers model that answers /v1/embeddings")
    index: str = option("", "folder of `folio rag sync`; chats are answered from its documents")
    adapters: list[str] = field(
        default_factory=list, metadata={"help": "LoRA adapters (folders, Hub names), which clients call MODEL:ADAPTER"}
    )
    api_key: str | None = option(None, "key that clients must send; others are rejected")
    allow_origin: list[str] = field(
        default_factory=list, metadata={"help": "origins of pages that may use the server (CORS): https://example.com"}
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
    from ..checkpoints.self_check import check_cache
    from ..serving.documents import Documents
    from ..serving.embeddings import Embedder
    from ..serving.generator import Choice, generation_config
    from ..serving.openai_api import Api
    from ..tokenization import encode_chat

    if args.adapters and (args.quantize or args.index):
        raise ValueError("--adapters goes with neither --quantize nor --index: serve one adapter alone, as --model.")
    embedder = documents = variants = None
    if args.embedder:
        from ..rag.embedding import load_embedder

        embedder = Embedder(_name(args.embedder), load_embedder(args.embedder).model)
    model, tokenizer, assistant = args.load()
    check_cache(model)
    if args.index:
        from ..rag import LLMGenerator, Rag

        if not tokenizer.chat_template:
            raise ValueError(f"--index answers chats, and {args.model} has no chat template: give another --model.")
        rag = Rag.open(args.index)
        rag.search("ready?", k=1)  # raises now what is wrong with the index
        documents = Documents(rag.answer, LLMGenerator)
    name = _name(args.model)
    if args.adapters:
        from ..checkpoints.named_adapters import add_adapters

        names = [name, *(f"{name}:{_name(adapter)}" for adapter in args.adapters)]
        if len(set(names)) < len(names):
            raise ValueError("Two of --adapters have the same name: give directories with different names.")
        model, found = add_adapters(model, tokenizer, args.adapters)
        variants = dict(zip(names, found, strict=True))
    for each in (model, *(variants or {}).values()):
        each.generation_config.prompt_lookup_num_tokens = args.prompt_lookup_num_tokens
    api = Api(name, model, tokenizer, encode_chat, embedder, documents, variants)
    api.generator.assistant = assistant
    for variant in api.variants.values():  # not every model can be drafted for
        api.generator.try_out(Choice([0], generation_config(variant, 1), adapter=variant.adapter))
    api.generator.thread.submit(api.generator.counts.clear).result()  # of this text
    print(f"Serving {name} at http://{address_of(bound)}/v1 (Ctrl-C ends it)", flush=True)
    if (why := api.generator.why_alone) is not None:
        print(f"Texts are generated one after another: {why}.", flush=True)
    serve(guarded(api.application(), bound, args.allow_origin, args.api_key), api.generator, bound)
    print("Stopped.")


def _name(given: str) -> str:
    """Return what clients call a model: the name of its directory, or its name on the Hub."""
    path = Path(given).expanduser()
    return path.resolve().name if path.is_dir() else given
