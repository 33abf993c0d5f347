"""What must not leave the machine with a checkpoint: files behind links, secrets, and paths of this machine."""

import functools
import json
import re
from pathlib import Path

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector

# Rules of detect-secrets that guess from words around a secret: they find some in every vocabulary, and are slow.
GUESSES = {
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
    """Names of files that lie elsewhere; the cache of the Hub's client, which is made of links, is one place."""
    place = folder.resolve()
    blobs = place.parents[1] / "blobs" if place.parent.name == "snapshots" else place
    return [name for name, file in files.items() if not {place, blobs} & set(file.resolve().parents)]


@functools.cache
def _secret_rules() -> list[tuple[str, re.Pattern]]:
    rules = [(kind, re.compile(pattern)) for kind, pattern in OTHER_SECRETS.items()]
    for kind, plugin in get_mapping_from_secret_type_to_class().items():
        if issubclass(plugin, RegexBasedDetector) and kind not in GUESSES:
            rules += [(kind, re.compile(each.pattern, each.flags | re.MULTILINE)) for each in plugin().denylist]
    return rules


def secrets(texts: dict[str, str]) -> list[str]:
    """A line for each text that holds what looks like a secret, which the line does not repeat."""
    rules = _secret_rules()
    found = {name: next((kind for kind, rule in rules if rule.search(text)), None) for name, text in texts.items()}
    said = "{} holds what looks like a secret token ({}): take it out, and revoke it"
    return [said.format(name, kind) for name, kind in found.items() if kind]


def home_paths(texts: dict[str, str]) -> list[str]:
    """A line for each text that names a path in the home directory of who runs this."""
    inside = re.compile(rf"(?<![\w./]){re.escape(str(Path.home()))}[/\\][\w.-]+")
    found = {name: match[0] for name, text in texts.items() if (match := inside.search(text))}
    return [f"{name} names a path of this machine ({path}): take it out" for name, path in found.items()]


def without_paths(text: str, report: dict, repo_id: str) -> str:
    """A card or report with bare names for the absolute paths in the report, and the repository for its folder."""
    values = json.dumps({name: value for name, value in report.items() if name != "prompt"}, ensure_ascii=False)
    names = {path.rstrip("/\\."): re.split(r"[/\\]", path.rstrip("/\\."))[-1] for path in PATH.findall(values)}
    if Path(str(report.get("output_dir"))).is_absolute():
        names |= dict.fromkeys([report["output_dir"], json.dumps(report["output_dir"])[1:-1]], repo_id)
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    return text
