"""The `folio` command: finds the module of a subcommand and turns errors into one line.

Nothing heavy is imported before the command is known, so `folio --help` answers at once.
"""

import importlib
import os
import sys

COMMANDS = {  # name: (module, what it does)
    "quickstart": ("quickstart", "from the Python manual to a checkpoint that the Hub can load, in minutes"),
    "tokenizer": ("tokenizer", "train a tokenizer on a corpus"),
    "pretrain": ("pretrain", "train a model from scratch on a corpus"),
    "generate": ("generate", "continue a prompt with a checkpoint"),
}

USER_ERROR, INTERRUPTED = 2, 130


def usage() -> str:
    commands = "\n".join(f"  folio {name:<12}{text}" for name, (_, text) in COMMANDS.items())
    return f"""usage: folio COMMAND [options]

Your own GPT, from raw text to the Hub.

{commands}

`folio COMMAND --help` lists the options. Every command takes --config FILE.yaml."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for an error that the user can mend, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] not in COMMANDS:
        print(f"folio: there is no command {argv[0]!r}: choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return USER_ERROR
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # "Loading weights" takes milliseconds here
    try:
        module = importlib.import_module(f"foliogpt.scripts.{COMMANDS[argv[0]][0]}")
        module.main(argv[1:])
    except KeyboardInterrupt as error:
        print(f"\n{error}" if str(error) else "\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, `head` for instance, has seen enough
        sys.stdout = None
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        if os.environ.get("FOLIO_TRACEBACK"):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"folio {argv[0]}: {message}", file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
