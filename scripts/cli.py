"""The `folio` command: it finds the module of a subcommand and turns errors into one line.

Nothing heavy is imported before the command is known, so that `folio --help` is fast.
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
    "config": ("", "print the settings of a command as YAML: folio config pretrain > run.yaml"),
    "quickstart": ("quickstart", "train a model on the Python manual in minutes, and check its checkpoint"),
    "data": ("data", "write a text to train on: Shakespeare's plays"),
    "clean": ("clean", "clean a corpus: Unicode, whitespace, control characters, duplicates"),
    "tokenizer": ("tokenizer", "train a tokenizer on a corpus, or show how one splits a text"),
    "pretrain": ("pretrain", "train a model from scratch on a corpus"),
    "finetune": ("finetune", "adapt a model to chats, instructions, preferences, labels or questions"),
    "merge": ("merge", "merge an adapter and its base into one checkpoint"),
    "scale": ("scale", "fit a scaling law to small runs, and test it on a larger one"),
    "estimate": ("estimate", "estimate memory and time of a pretraining run before it starts"),
    "runs": ("runs", "list training runs and their results"),
    "compare": ("compare", "compare training runs: settings, losses, metrics, samples"),
    "sweep": ("sweep", "train many times with different values of some settings"),
    "evaluate": ("evaluate", "evaluate a model: metrics with confidence intervals, next to a baseline"),
    "generate": ("generate", "continue a prompt with a checkpoint"),
    "chat": ("chat", "chat with a model in the terminal"),
    "summarize": ("summarize", "summarize a dialogue or a text"),
    "answer": ("answer", "answer a question from a text"),
    "classify": ("classify", "label texts, with probabilities"),
    "app": ("app.command", "open a page in the browser: chat, token probabilities, attention maps"),
    "convert": ("convert", "convert from and to GPT-2, Llama, Qwen3, and to GGUF for llama.cpp"),
    "serve": ("serve", "serve a model over OpenAI's HTTP API"),
    "rag": ("rag.command", "index your documents, search them, and answer with citations"),
    "embedder": ("embedder", "train an embedding model for your documents from a checkpoint"),
    "doctor": ("doctor", "check the installation, and print what a bug report needs"),
    "book": ("book", "open the chapters that teach all this, or list the exercises you have solved"),
    "push": ("push", "check a checkpoint and upload it to the Hub"),
    "completion": ("completion", "print a script for your shell that completes commands and options"),
}

OUR_ERROR, USER_ERROR = 1, 2
BY_SIGNAL = 128  # plus the number of the signal, as shells report it
QUIET = {  # environment variables: fewer messages of libraries, and a safe folder
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "critical",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # loading weights takes milliseconds here
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "critical",
    # torch's default is in /tmp, where another user could have made the folder first.
    "TORCHINDUCTOR_CACHE_DIR": os.path.expanduser("~/.cache/foliogpt/inductor"),
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
    for name in ("torchao", "torch.utils._pytree"):  # torchao logs warnings when it is imported
        logging.getLogger(name).setLevel(logging.ERROR)
    # Only torchao's import of a private class of torch: users should see warnings about their own arguments.
    warnings.filterwarnings("ignore", r".*LeafSpec", category=FutureWarning)
    module = importlib.import_module(f"foliogpt.scripts.{COMMANDS[argv[0]][0]}")
    jobs = getattr(module, "JOBS", None)  # functions by the second word, in place of `main`
    if jobs is None:
        module.main(argv[1:])
    elif not argv[1:] or argv[1] in ("-h", "--help"):
        print(module.__doc__)
    elif argv[1] in jobs:
        jobs[argv[1]](argv[2:])
    else:
        raise ValueError(f"There is no `folio {argv[0]} {argv[1]}`: choose {', '.join(jobs)}.")


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; of several processes, one prints the error.

    0, 1 for an error in FolioGPT, 2 for one that the user can correct, 130 after Ctrl-C, 143 after SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else argv
    # `tokenizer inspect` colors tokens, and makes all control characters in them visible.
    with text_streams(own_colors=argv[:1] == ["tokenizer"]):
        code, message, error = _run(argv)
        if os.environ.get("WORLD_SIZE", "1") == "1":
            if message:
                print(message, file=sys.stderr)
            return code
        from ..jobs.processes import exit_process, message_to_print

        if message and (message := message_to_print(message, error)):
            print(message, file=sys.stderr)
    exit_process(code)
    return code


def _run(argv: list[str]) -> tuple[int, str, BaseException | None]:
    """Run a command; return its exit code, and the message and the error if it failed."""
    try:
        with handled(interrupt, signal.SIGTERM):
            run(argv)
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        signum = signal_of(error)
        reason = str(error) or ("Interrupted." if signum == signal.SIGINT else "Terminated.")
        return BY_SIGNAL + signum, f"\n{reason}", None
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("FOLIO_TRACEBACK"):
            raise
        prog, message = f"folio {argv[0]}:", " ".join(str(error).split())
        is_offline = type(error).__module__.startswith(("httpx", "httpcore"))  # the Hub cannot be reached
        if is_offline or isinstance(error, (ValueError, OSError, ImportError, RuntimeError, MemoryError)):
            return USER_ERROR, f"{prog} {message or type(error).__name__}", error
        prog = f"{prog} an error in FolioGPT; FOLIO_TRACEBACK=1 shows where. Please report it:\n{prog}"
        return OUR_ERROR, f"{prog} {type(error).__name__} {message}".strip(), error
    return 0, "", None


if __name__ == "__main__":
    sys.exit(main())
