"""From a directory to the Hub: what would go, whether it can be used there, and the upload."""

import contextlib
import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_imports

from ..jobs.cards import pretrained_card
from ..jobs.errors import first_line
from ..jobs.report import CARD_FILE, CURVE_FILE, REPORT_FILE
from ..jobs.run_folder import LOCK_FILE
from . import disclosure
from .base_record import BASE_FILE
from .clean_process import load_in_clean_process
from .loading import ADAPTER_CONFIG

# Nothing else goes: no trainer states, no pickles, no settings with this machine's paths.
UPLOAD_PATTERNS = (
    "config.json", "generation_config.json", ADAPTER_CONFIG, BASE_FILE, "model.safetensors",
    "adapter_model.safetensors", "model-[0-9]*-of-[0-9]*.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "chat_template.jinja",
    CARD_FILE, "LICENSE", "LICENSE.md", "LICENSE.txt", REPORT_FILE, CURVE_FILE,
    # An embedder's: what makes a vector of the stack's states.
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "[0-9]_*/config.json",
)  # fmt: skip
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass
class Publication:
    """What would go to the Hub, what stays, and what is wrong with it."""

    folder: Path
    files: dict[str, Path | bytes] = field(default_factory=dict)
    stays: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def require_ready(self) -> None:
        """Raise ValueError, which names every problem, if there is one."""
        if self.problems:
            raise ValueError(f"Not ready for the Hub: {'; '.join(self.problems)}.")

    def sizes(self) -> dict[str, int]:
        files = self.files.items()
        return {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files}


def prepare(
    directory: str | Path, repo_id: str, license: str | None = None, trust_remote_code: bool = False
) -> Publication:
    """Choose the files of a checkpoint or adapter that would go, and check them. Nothing is changed or sent.

    `license`, as the Hub names it, goes into the card; `trust_remote_code` lets the check run code that is not ours.
    Raises ValueError, OSError if the directory holds no checkpoint, a run is writing to it, or `repo_id` cannot be one.
    """
    folder = Path(directory).expanduser()
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"--repo_id {repo_id!r} cannot be a name on the Hub: {error}") from None
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no directory {folder}.")
    if not (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it has no config.json, nor {ADAPTER_CONFIG}.")
    _check_nobody_writes(folder)
    found = (path for pattern in UPLOAD_PATTERNS for path in folder.glob(pattern) if path.is_file())
    chosen = {path.relative_to(folder).as_posix(): path for path in (*found, *_code_files(folder))}
    publication = Publication(folder, dict(sorted(chosen.items())))
    goes = {name.partition("/")[0] for name in chosen}
    publication.stays = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in goes)
    problems = publication.problems
    leave = disclosure.links_that_leave(folder, chosen)
    problems += [f"{name} is a link to what is not in {folder}: put the file itself there" for name in leave]
    if leave:  # nobody reads what it points to
        return publication
    texts = [name for name in chosen if not name.endswith(disclosure.BINARY)]
    publication.files |= {name: chosen[name].read_bytes() for name in texts}  # what goes is what was checked
    problems += _weights(publication)
    problems += _card(publication, repo_id, license)
    texts = _without_local_paths(publication, repo_id)
    problems += disclosure.secrets(texts) + disclosure.home_paths(texts)
    if (folder / "config.json").is_file():
        if "tokenizer_config.json" not in chosen:
            problems.append("there is no tokenizer: save one beside the model with tokenizer.save_pretrained")
        problems += _code(publication, trust_remote_code)
    else:
        problems += _adapter(publication)
    if not problems and "config.json" in chosen:  # an adapter's base is elsewhere; problems would be said again
        problems += _opens_elsewhere(publication)
    return publication


def upload(publication: Publication, repo_id: str, private: bool = False, overwrite: bool = False) -> str:
    """Create the repository if need be, put the files there in one commit, all or none, and return its address.

    Raises ValueError without a token; FileExistsError if it has files already, or is public; OSError of the Hub.
    """
    if get_token() is None:
        raise ValueError("There is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    weights = {name: file for name, file in publication.files.items() if isinstance(file, Path)}
    if disclosure.links_that_leave(publication.folder, weights):
        raise OSError(f"A file of {publication.folder} has become a link since it was checked: nothing was sent.")
    try:
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(url.repo_id).private:
            remedy = "make it private in its settings, or leave out --private"
            raise FileExistsError(f"{url.repo_id} is on the Hub and public: {remedy}.")
        there = set(api.list_repo_files(url.repo_id)) - {".gitattributes"}
        if there and not overwrite:
            remedy = "give another --repo_id, or replace them with --overwrite"
            raise FileExistsError(f"{url.repo_id} is on the Hub and has files: {remedy}.")
        operations = [CommitOperationDelete(name) for name in sorted(there - publication.files.keys())]
        operations += [CommitOperationAdd(name, file) for name, file in publication.files.items()]
        api.create_commit(url.repo_id, operations, commit_message="Upload with FolioGPT")
    except (FileExistsError, HFValidationError):
        raise
    except Exception as error:  # of the libraries below, each reports a lost connection in a way of its own
        raise OSError(_what_went_wrong(error, repo_id)) from error
    return str(url)


def push(
    directory: str | Path,
    repo_id: str,
    license: str | None = None,
    private: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> str:
    """Do what `prepare` and `upload` do, with their errors, and return the address; ValueError for a problem."""
    publication = prepare(directory, repo_id, license, trust_remote_code)
    publication.require_ready()
    return upload(publication, repo_id, private, overwrite)


def _what_went_wrong(error: Exception, repo_id: str) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return "The Hub does not know the token: log in again with `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return f"The token may not write to {repo_id}: use one with write access to that name (`hf auth login`)."
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"The upload failed, and nothing of it is in {repo_id} ({first_line(cause)}): run the same command again."


def _check_nobody_writes(folder: Path) -> None:
    if (folder / LOCK_FILE).exists():
        try:
            with FileLock(folder / LOCK_FILE, timeout=0):
                pass
        except Timeout:
            raise FileExistsError(f"A run is writing to {folder} now: wait for it.") from None


def _weights(publication: Publication) -> list[str]:
    names = [name for name in publication.files if name.endswith(".safetensors")]
    if not names:
        pickles = [name for name in publication.stays if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
        also = f" ({pickles[0]} is a pickle, which nobody should load)" if pickles else ""
        return [f"there are no weights in safetensors{also}"]
    problems = []
    for name in names:
        try:
            with safe_open(publication.files[name], framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            problems.append(f"{name} is not whole ({error})")
    for name in (name for name in publication.files if name.endswith(".index.json")):
        try:
            missing = set(_json(publication.folder / name)["weight_map"].values()) - publication.files.keys()
            problems += [f"{shard}, which {name} names, is missing" for shard in sorted(missing)]
        except (ValueError, KeyError, TypeError, AttributeError):
            problems.append(f"{name} is not an index of shards")
    return problems


def _card(publication: Publication, repo_id: str, license: str | None) -> list[str]:
    """Write the card that would go: with the license, and with the name on the Hub where it named a directory."""
    report = None
    try:
        if REPORT_FILE in publication.files:
            report = _json(publication.folder / REPORT_FILE)
            if not isinstance(report, dict):
                raise ValueError(f"{REPORT_FILE} is no mapping")
        if CARD_FILE in publication.files:
            text = (publication.folder / CARD_FILE).read_text(encoding="utf-8")
        elif report is not None:
            text = pretrained_card(report)
        else:
            return [f"there is no model card: write {CARD_FILE}"]
        card = ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        return [f"{CARD_FILE} or {REPORT_FILE} cannot be read ({' '.join(str(error).split())})"]
    problems = []
    if license is not None:
        card.data.license = license
    if Path(str(card.data.base_model)).is_absolute():  # not a name on the Hub
        card.data.base_model = None
    if not card.data.license:
        problems.append("the model card names no license: add one, for instance --license apache-2.0")
    elif not LICENSE.fullmatch(str(card.data.license)):
        remedy = "write it as in apache-2.0, mit, other"
        problems.append(f"{card.data.license!r} is not how the Hub names a license: {remedy}")
    if report is not None:
        # A result with a name is not the run's own.
        for result in (each for each in card.data.eval_results or [] if each.metric_name is None):
            kind, said, measured = result.metric_type, result.metric_value, report.get(f"val_{result.metric_type}")
            numbers = all(isinstance(value, int | float) for value in (measured, said))
            if measured is not None and not (numbers and abs(said - measured) <= 1e-3 * abs(measured)):
                problems.append(f"{CARD_FILE} says {kind} {said}, {REPORT_FILE} {measured}: they are of two runs")
        if report.get("output_dir"):
            card.text = card.text.replace(json.dumps(report["output_dir"]), json.dumps(repo_id))
    publication.files[CARD_FILE] = str(card).encode()
    publication.facts.append(f"license {card.data.license}")
    return problems


def _without_local_paths(publication: Publication, repo_id: str) -> dict[str, str]:
    """Take the paths that the report names out of the report and card that would go; returns the texts that go."""
    files = publication.files
    if REPORT_FILE in files:
        with contextlib.suppress(ValueError, AttributeError):  # else `_card` has said so
            report = json.loads(files[REPORT_FILE])
            for name in {REPORT_FILE, CARD_FILE} & files.keys():
                files[name] = disclosure.without_paths(files[name].decode(errors="replace"), report, repo_id).encode()
    return {name: file.decode(errors="replace") for name, file in files.items() if isinstance(file, bytes)}


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _code_files(folder: Path) -> list[Path]:
    """The Python files that `auto_map` names, and what they import from beside them; no others go."""
    try:
        todo = [folder / f"{target.split('.')[0]}.py" for target in _code_targets(folder)]
    except (OSError, ValueError, AttributeError):  # `_code` says so
        return []
    found = set()
    while todo:
        file = todo.pop()
        if file not in found and file.is_file():
            found.add(file)
            todo += [folder / f"{name}.py" for name in get_relative_imports(file)]
    return sorted(found)


def _code_targets(folder: Path) -> list[str]:
    return [str(target) for target in (_json(folder / "config.json").get("auto_map") or {}).values()]


def _code(publication: Publication, trust_remote_code: bool) -> list[str]:
    """What `auto_map` names is there, and it is our own code, or the user vouches for it."""
    try:
        targets = _code_targets(publication.folder)
    except (ValueError, AttributeError) as error:
        return [f"config.json cannot be read ({error})"]
    if elsewhere := [target for target in targets if "--" in target]:
        return [f"config.json takes code from another repository ({elsewhere[0]}): save the model with its code"]
    missing = {f"{target.split('.')[0]}.py" for target in targets} - publication.files.keys()
    if missing:
        return [f"{name}, which config.json names, is missing" for name in sorted(missing)]
    ours = Path(__file__).parents[1] / "modeling"
    for name, file in publication.files.items():
        if name.endswith(".py") and not trust_remote_code:
            own = ours / name
            if not own.is_file() or own.read_bytes() != file:
                remedy = "look at it, then let the check run it with --trust_remote_code, or save the model again"
                return [f"{name} is not the code of this version of FolioGPT: {remedy}"]
    return []


def _adapter(publication: Publication) -> list[str]:
    try:
        base = _json(publication.folder / ADAPTER_CONFIG)["base_model_name_or_path"]
        validate_repo_id(base)
    except (ValueError, KeyError, TypeError):
        base = None
    if base is None or Path(base).exists():
        remedy = "push that first, and write its name on the Hub as base_model_name_or_path"
        return [f"{ADAPTER_CONFIG} names no base model that others can load ({base}): {remedy}"]
    publication.facts.append(f"adapter of {base}")
    return []


def _opens_elsewhere(publication: Publication) -> list[str]:
    """Load what would go, and nothing else, where this package cannot be imported."""
    has_code = any(name.endswith(".py") for name in publication.files)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "checkpoint"
        for name, file in publication.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file, bytes):
                (place / name).write_bytes(file)
            else:
                (place / name).symlink_to(file.resolve())
        try:
            fact, _ = load_in_clean_process(place, trust_remote_code=has_code)
        except RuntimeError as error:
            return [f"it {error}"]
    publication.facts.append(fact)
    return []
