"""A page in the browser for a checkpoint: chat, continued texts, the probabilities of tokens, and attention maps.

    folio app --model runs/quickstart
    folio app --model runs/quickstart --port 8123

It is for this machine alone: it listens at 127.0.0.1, and neither it nor the page sends anything to anybody.
Ctrl-C ends it.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class AppArguments:
    model: str = field(metadata={"help": "a checkpoint's or an adapter's directory or Hub name"})
    port: int = field(default=7860, metadata={"help": "0 takes a free one"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code in the checkpoint; not for ours"})


def main(argv: list[str]) -> None:
    from ..arguments import parse

    (args,) = parse(argv, [AppArguments], "folio app", __doc__)
    from ...checkpoints.loading import load_model
    from ...serving.generator import TextGenerator
    from ...serving.http_server import bind, serve
    from .page import application, build_page

    bound = bind("127.0.0.1", args.port)  # first: loading takes longer than finding out that the port is taken
    model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code)
    path = Path(args.model).expanduser()
    generator = TextGenerator(model, tokenizer)
    app = application(build_page(generator, tokenizer, path.resolve().name if path.is_dir() else args.model))
    print(f"The page is at http://127.0.0.1:{bound.getsockname()[1]} (Ctrl-C ends it)", flush=True)
    serve(app, generator, bound)
    generator.close()
    print("Stopped.")
