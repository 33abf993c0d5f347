"""Checks that a checkpoint discloses nothing of this machine: files behind links, secrets, and paths."""

import functools
import json
import re
from pathlib import Path

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector

# Rules of detect-secrets that guess from words around a secret: they find some in every vocabulary, and are slow.
UNRELIABLE_RULES = {
    "Artifactory Credentials", "Cloudant Credentials", "IBM COS HMAC Credentials", "IBM Cloud IAM Key",
    "Public IP (ipv4)", "Secret Keyword", "SoftLayer Credentials",
}  # fmt: skip
OTHER_SECRETS = {
    "Hugging Face Token": r"hf_[A-Za-z0-9]{30,}",
    "GitHub Token": r"github_pat_\w{30,}|gh[pousr]_[A-Za-z0-9]{30,}",
    "API Key": r"sk-[\w-]{32,}|AIza[\w-]{35}",
    "Private Key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
BINARY = (".safetensors", ".png", ".model")
PATH = re.compile(r"(?<![\w.~:/\\])(?:[A-Za-z]:\\|/)[^\s\"'`=,;:()\[\]<>|]+")


def links_that_leave(folder: Path, files: dict[str, Path]) -> list[str]:
    """Return the names of files outside the folder; in the cache of the Hub's client, links to its files are inside."""
    place = folder.resolve()
    blobs = place.parents[1] / "blobs" if place.parent.name == "snapshots" else place
    return [name for name, file in files.items() if not {place, blobs} & set(file.resolve().parents)]


@functools.cache
def _secret_rules() -> list[tuple[str, re.Pattern]]:
    rules = [(kind, re.compile(pattern)) for kind, pattern in OTHER_SECRETS.items()]
    for kind, plugin in get_mapping_from_secret_type_to_class().items():
        if issubclass(plugin, RegexBasedDetector) and kind not in UNRELIABLE_RULES:
            rules += [(kind, re.compile(each.pattern, each.flags | re.MULTILINE)) for each in plugin().denylist]
    return rules


def disclosures(texts: dict[str, str]) -> list[str]:
    """Return a message for each text that seems to hold a secret, without it, or a path in the user's home."""
    inside, found = re.compile(rf"(?<![\w./]){re.escape(str(Path.home()))}[/\\][\w.-]+"), []
    for name, text in texts.items():
        if kind := next((kind for kind, rule in _secret_rules() if rule.search(text)), None):
            found.append(f"{name} contains what looks like a secret token ({kind}): remove and revoke it")
        if path := inside.search(text):
            found.append(f"{name} names a path of this machine ({path[0]}): remove it")
    return found


def without_paths(text: str, report: dict, repo_id: str) -> str:
    """Replace the report's absolute paths in a card or report by bare names, and its folder by the repository."""
    values = json.dumps({name: value for name, value in report.items() if name != "prompt"}, ensure_ascii=False)
    names = {path.rstrip("/\\."): re.split(r"[/\\]", path.rstrip("/\\."))[-1] for path in PATH.findall(values)}
    if Path(str(report.get("output_dir"))).is_absolute():
        names |= dict.fromkeys([report["output_dir"], json.dumps(report["output_dir"])[1:-1]], repo_id)
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    return text
