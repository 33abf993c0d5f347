"""Write a file of settings for a command: each option with its meaning and its default.

    folio config pretrain > run.yaml
    folio config finetune sft > run.yaml

What is changed in the file is set by `folio pretrain --config run.yaml`; flags beside it win.
"""


def main(argv: list[str]) -> None:
    from .cli import COMMANDS, run

    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
    elif argv[0] not in COMMANDS:
        raise ValueError(f"There is no command {argv[0]!r}: give one that `folio --help` lists.")
    else:
        run([*argv, "--config_template"])
