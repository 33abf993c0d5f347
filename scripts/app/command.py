"""Open a page in the browser for a checkpoint: chat, generated texts, token probabilities, attention maps.

    folio app --model runs/quickstart
    folio app --model runs/quickstart --port 8123

It is for this machine only: it listens at 127.0.0.1, and neither it nor the page sends anything elsewhere. The address
that it prints has a token, without which other users of the machine cannot use the page. Ctrl-C ends it.
"""

import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class AppArguments:
    model: str = field(metadata={"help": "directory or Hub name of a checkpoint or adapter"})
    port: int = field(default=7860, metadata={"help": "port to listen at; 0 selects a free one"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the checkpoint's Python code (not for ours)"})


def main(argv: list[str]) -> None:
    from ..arguments import parse

    (args,) = parse(argv, [AppArguments], "folio app", __doc__)
    with tempfile.TemporaryDirectory(prefix="folio-app-", ignore_cleanup_errors=True) as folder:
        # The uploads of visitors are here, where other users cannot read them. They are deleted at the end.
        tempfile.tempdir, os.environ["GRADIO_TEMP_DIR"] = folder, f"{folder}/gradio"
        try:
            run(args)
        finally:
            tempfile.tempdir = None
            del os.environ["GRADIO_TEMP_DIR"]


def run(args: AppArguments) -> None:
    from ...checkpoints.loading import load_model
    from ...serving.generator import TextGenerator
    from ...serving.http_server import address_of, bind, guarded, serve
    from .page import application, build_page

    bound = bind("127.0.0.1", args.port)  # first: loading takes longer than finding out that the port is taken
    model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code)
    path = Path(args.model).expanduser()
    generator = TextGenerator(model, tokenizer)
    page = build_page(generator, tokenizer, path.resolve().name if path.is_dir() else args.model)
    token = secrets.token_urlsafe(32)
    print(f"The page is at http://{address_of(bound)}/?token={token} (Ctrl-C ends it)", flush=True)
    serve(guarded(application(page, token), bound), generator, bound)
    generator.close()
    print("Stopped.")
