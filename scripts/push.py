"""Check a checkpoint or adapter as users of the Hub would load it, and with --yes upload it.

    folio push runs/quickstart --repo_id me/my-gpt --license apache-2.0
    folio push runs/quickstart --repo_id me/my-gpt --license apache-2.0 --private --yes

Without --yes nothing is sent: the files to upload are listed and checked. Log in with `hf auth login`.
"""

from dataclasses import dataclass, field


@dataclass
class PushArguments:
    repo_id: str = field(metadata={"help": "repository on the Hub: yourname/name"})
    license: str | None = field(default=None, metadata={"help": "license for the model card, such as apache-2.0"})
    private: bool = field(default=False, metadata={"help": "create the repository as private"})
    overwrite: bool = field(default=False, metadata={"help": "replace the files in the repository"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the checkpoint's Python code (not for ours)"})
    yes: bool = field(default=False, metadata={"help": "upload the files"})


def main(argv: list[str]) -> None:
    from .arguments import parse

    directory, args = parse(argv, [PushArguments], "folio push", __doc__, positional=["DIR"])
    from ..checkpoints.publishing import prepare, upload

    publication = prepare(directory, args.repo_id, args.license, args.trust_remote_code)
    for name, size in (sizes := publication.sizes()).items():
        print(f"{size / 1e6:>10,.3f} MB  {name}")
    total = f"{len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB"
    print(f"{total}; not among them: {', '.join(publication.left_out) or 'nothing'}")
    publication.require_ready()
    print(f"Checked: {'; '.join(publication.facts)}")
    if not args.yes:
        print("Nothing was sent. To upload, add --yes.")
        return
    print(f"Uploaded to {upload(publication, args.repo_id, args.private, args.overwrite)}")
