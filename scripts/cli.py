"""The `folio` command: finds the module of a subcommand and turns errors into one line.

Nothing heavy is imported before the command is known, so `folio --help` answers at once.
"""

import importlib
import logging
import os
import signal
import sys
import warnings
from difflib import get_close_matches
from importlib.metadata import version

from ..jobs.signals import handled, interrupt, signal_of
from .terminal import text_streams

COMMANDS = {  # name: (module, what it does)
    "config": ("", "a file of settings for a command, to be filled in: folio config pretrain > run.yaml"),
    "quickstart": ("quickstart", "from the Python manual to a checkpoint that the Hub can load, in minutes"),
    "data": ("data", "write a text to train on: Shakespeare's plays"),
    "clean": ("clean", "clean a corpus: Unicode, whitespace, control characters, duplicates"),
    "tokenizer": ("tokenizer", "train a tokenizer on a corpus, and look at how one cuts text"),
    "pretrain": ("pretrain", "train a model from scratch on a corpus"),
    "finetune": ("finetune", "adapt a model to chats, instructions, preferences, labels, questions"),
    "merge": ("merge", "make a checkpoint of an adapter and its base"),
    "scale": ("scale", "fit a scaling law to small runs, and test it on a larger one"),
    "estimate": ("estimate", "memory and time of a pretraining run, before it starts"),
    "runs": ("runs", "list training runs, with what came out of them"),
    "compare": ("compare", "training runs side by side: settings, losses, figures, samples"),
    "sweep": ("sweep", "many training runs that try out values of some settings"),
    "evaluate": ("evaluate", "how good a model is: figures with intervals, before against after"),
    "generate": ("generate", "continue a prompt with a checkpoint"),
    "chat": ("chat", "talk to a model in the terminal"),
    "summarize": ("summarize", "sum up a dialogue or a text"),
    "answer": ("answer", "answer a question from a text"),
    "classify": ("classify", "labels of texts, with probabilities"),
    "app": ("app.command", "a page in the browser: chat, token probabilities, attention maps"),
    "convert": ("convert", "to and from GPT-2, Llama, Qwen3, and to GGUF for llama.cpp"),
    "serve": ("serve", "answer over OpenAI's HTTP API"),
    "rag": ("rag.command", "ask your documents: index them, search them, get answers with citations"),
    "embedder": ("embedder", "train an embedder for your documents from a checkpoint"),
    "doctor": ("doctor", "check the installation; print what a bug report needs"),
    "book": ("book", "the chapters that teach all this: open them, see what you have solved"),
    "push": ("push", "check a checkpoint and upload it to the Hub"),
}

OUR_ERROR, USER_ERROR = 1, 2
BY_SIGNAL = 128  # and the number of the signal, as shells report it
QUIET = {  # what libraries would say beside our one line
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "critical",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # "Loading weights" takes milliseconds here
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "critical",
}


def usage() -> str:
    commands = "\n".join(f"  folio {name:<12}{text}" for name, (_, text) in COMMANDS.items())
    return f"""usage: folio COMMAND [options]

Your own GPT, from raw text to the Hub.

{commands}

`folio COMMAND --help` lists the options, `folio --version` the version. Every command takes --config FILE.yaml."""


def run(argv: list[str]) -> None:
    if argv[:1] == ["config"]:
        argv = [*argv[1:], "--config_template"] if argv[1:] else ["--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    if argv[0] == "--version":
        print(f"foliogpt {version('foliogpt')}")
        return
    if argv[0] not in COMMANDS:
        near = get_close_matches(argv[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}."
        raise ValueError(f"There is no command {argv[0]!r}: {hint}")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # torch's default is in /tmp, where another user could have made the folder first.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.expanduser("~/.cache/foliogpt/inductor"))
    for name in ("torchao", "torch.utils._pytree"):  # where it is installed, torchao talks on being imported
        logging.getLogger(name).setLevel(logging.ERROR)
    # torchao's import of torch's own private class; a deprecated argument of the user's is theirs to hear of.
    warnings.filterwarnings("ignore", r".*LeafSpec", category=FutureWarning)
    importlib.import_module(f"foliogpt.scripts.{COMMANDS[argv[0]][0]}").main(argv[1:])


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0, 2 for an error that the user can mend, 130 after Ctrl-C, 143 after SIGTERM. Of several processes one speaks for
    all.
    """
    argv = sys.argv[1:] if argv is None else argv
    # `tokenizer inspect` colours tokens, in which it has made all control characters visible.
    with text_streams(own_colours=argv[:1] == ["tokenizer"]):
        code = _run(argv)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from ..jobs.processes import leave

        leave(code)
    return code


def _run(argv: list[str]) -> int:
    try:
        with handled(interrupt, signal.SIGTERM):
            run(argv)
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        signum = signal_of(error)
        _say("\n" + (str(error) or ("Interrupted." if signum == signal.SIGINT else "Terminated.")))
        return BY_SIGNAL + signum
    except BrokenPipeError:  # the reader of our output, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        return _fail(argv[0], error, USER_ERROR)
    except Exception as error:
        is_offline = type(error).__module__.startswith(("httpx", "httpcore"))  # the Hub cannot be reached
        return _fail(argv[0], error, USER_ERROR if is_offline else OUR_ERROR)
    return 0


def _fail(command: str, error: Exception, code: int) -> int:
    if os.environ.get("FOLIO_TRACEBACK"):
        raise error
    prog, message = f"folio {command}:", " ".join(str(error).split())
    if not message or code == OUR_ERROR:
        message = f"{type(error).__name__} {message}".strip()
    if code == OUR_ERROR:
        prog = f"{prog} an error in FolioGPT; FOLIO_TRACEBACK=1 shows where. Please report it:\n{prog}"
    _say(f"{prog} {message}", error)
    return code


def _say(message: str, error: Exception | None = None) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from ..jobs.processes import to_say

        message = to_say(message, error)
    if message is not None:
        print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
