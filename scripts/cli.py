"""The `folio` command: finds the module of a subcommand and turns errors into one line.

Nothing heavy is imported before the command is known, so `folio --help` answers at once.
"""

import importlib
import logging
import os
import sys
import warnings

COMMANDS = {  # name: (module, what it does)
    "quickstart": ("quickstart", "from the Python manual to a checkpoint that the Hub can load, in minutes"),
    "clean": ("clean", "clean a corpus: Unicode, whitespace, control characters, duplicates"),
    "tokenizer": ("tokenizer", "train a tokenizer on a corpus, and look at how one cuts text"),
    "pretrain": ("pretrain", "train a model from scratch on a corpus"),
    "finetune": ("finetune", "adapt a model to chats, instructions, preferences, labels, questions"),
    "merge": ("merge", "make a checkpoint of an adapter and its base"),
    "doctor": ("doctor", "what a pretraining run will take, before it starts"),
    "generate": ("generate", "continue a prompt with a checkpoint"),
    "chat": ("chat", "talk to a model in the terminal"),
    "summarize": ("summarize", "sum up a dialogue or a text"),
    "answer": ("answer", "answer a question from a text"),
    "classify": ("classify", "labels of texts, with probabilities"),
    "app": ("app", "a page in the browser: chat, token probabilities, attention maps"),
    "convert": ("convert", "to and from GPT-2, Llama, Qwen3, nanoGPT, and to GGUF for llama.cpp"),
    "serve": ("serve", "answer over OpenAI's HTTP API"),
    "push": ("push", "check a checkpoint and upload it to the Hub"),
}

OUR_ERROR, USER_ERROR, INTERRUPTED = 1, 2, 130
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

`folio COMMAND --help` lists the options. Every command takes --config FILE.yaml."""


def run(argv: list[str]) -> None:
    """Run the command that `argv` names."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    if argv[0] not in COMMANDS:
        raise ValueError(f"There is no such command: choose one of {', '.join(COMMANDS)}.")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("torchao", "torch.utils._pytree"):  # where it is installed, torchao talks on being imported
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)  # what libraries have to tell each other
    importlib.import_module(f"foliogpt.scripts.{COMMANDS[argv[0]][0]}").main(argv[1:])


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for an error that the user can mend, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        print(f"\n{error}" if str(error) else "\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        return _fail(argv[0], error, USER_ERROR)
    except Exception as error:
        if type(error).__module__.startswith(("httpx", "httpcore")):  # the Hub cannot be reached
            return _fail(argv[0], error, USER_ERROR)
        print(
            f"folio {argv[0]}: an error in FolioGPT; FOLIO_TRACEBACK=1 shows where. Please report it:", file=sys.stderr
        )
        return _fail(argv[0], error, OUR_ERROR)
    return 0


def _fail(command: str, error: Exception, code: int) -> int:
    if os.environ.get("FOLIO_TRACEBACK"):
        raise error
    message = " ".join(str(error).split())
    if not message or code == OUR_ERROR:
        message = f"{type(error).__name__} {message}".strip()
    print(f"folio {command}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
