"""Check a checkpoint or adapter as the Hub's users would meet it, and with --yes upload it.

    folio push runs/quickstart --repo_id me/my-gpt --license apache-2.0
    folio push runs/quickstart --repo_id me/my-gpt --license apache-2.0 --private --yes

Without --yes nothing is sent: the files that would go are listed and checked. Log in with `hf auth login`.
"""

from dataclasses import dataclass, field


@dataclass
class PushArguments:
    repo_id: str = field(metadata={"help": "the repository: yourname/name"})
    license: str | None = field(default=None, metadata={"help": "as the Hub names it; written into the model card"})
    private: bool = field(default=False, metadata={"help": "if the repository is created, nobody else sees it"})
    overwrite: bool = field(default=False, metadata={"help": "replace what the repository holds"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code in the checkpoint; not for ours"})
    yes: bool = field(default=False, metadata={"help": "upload"})


def main(argv: list[str]) -> None:
    from .arguments import parse

    directory, args = parse(argv, [PushArguments], "folio push", __doc__, positional=["DIR"])
    from ..checkpoints.publishing import prepare, upload

    publication = prepare(directory, args.repo_id, args.license, args.trust_remote_code)
    for name, size in (sizes := publication.sizes()).items():
        print(f"{size / 1e6:>10,.3f} MB  {name}")
    total = f"{len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB"
    print(f"{total}; not among them: {', '.join(publication.stays) or 'nothing'}")
    publication.require_ready()
    print(f"Checked: {'; '.join(publication.facts)}")
    if not args.yes:
        print("Nothing was sent. To upload, add --yes.")
        return
    print(f"Uploaded to {upload(publication, args.repo_id, args.private, args.overwrite)}")
