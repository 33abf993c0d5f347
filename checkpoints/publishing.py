"""Publication of a checkpoint on the Hub: its files, checks that others can use them, and the upload."""

import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_imports

from ..jobs.cards import pretrained_card
from ..jobs.errors import first_line
from ..jobs.report import CARD_FILE, CURVE_FILE, REPORT_FILE
from ..jobs.run_folder import LOCK_FILE
from . import disclosure
from .base_record import BASE_FILE
from .clean_process import load_in_clean_process
from .no_checkpoint import ADAPTER_CONFIG
from .weight_files import CONFIG, INDEX, read_config, read_headers, read_index

# No other files are uploaded: no trainer states, no pickles, no settings with this machine's paths.
UPLOAD_PATTERNS = (
    "config.json", "generation_config.json", ADAPTER_CONFIG, BASE_FILE, "model.safetensors",
    "adapter_model.safetensors", "model-[0-9]*-of-[0-9]*.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "chat_template.jinja",
    CARD_FILE, "LICENSE", "LICENSE.md", "LICENSE.txt", REPORT_FILE, CURVE_FILE,
    # Of an embedding model: how the states of the backbone become a vector.
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "[0-9]_*/config.json",
)  # fmt: skip
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass
class Publication:
    """The files to upload and those that are not, and the problems that prevent the upload."""

    folder: Path
    files: dict[str, Path | bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
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
    """Choose and check the files of a checkpoint or adapter to upload. Nothing is changed or sent.

    `trust_remote_code` lets the check run code that is not ours. Raises ValueError, OSError if the directory holds no
    checkpoint, a run is writing to it, or `repo_id` cannot be one.
    """
    folder = Path(directory).expanduser()
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"--repo_id {repo_id!r} cannot be a name on the Hub: {error}") from None
    has_config = (folder / CONFIG).is_file()
    if not has_config and not (folder / ADAPTER_CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint's directory: it has no config.json, nor {ADAPTER_CONFIG}.")
    _check_not_written(folder)
    code = read_config(folder).get("auto_map") or {} if has_config else {}  # auto class: file and class
    if not isinstance(code, dict):
        raise ValueError(f"auto_map in {folder / CONFIG} is no mapping: save the model again.")
    found = (path for pattern in UPLOAD_PATTERNS for path in folder.glob(pattern) if path.is_file())
    chosen = {path.relative_to(folder).as_posix(): path for path in (*found, *_code_files(folder, code))}
    publication = Publication(folder, dict(sorted(chosen.items())))
    uploaded = {name.partition("/")[0] for name in chosen}
    others = (path for path in folder.iterdir() if path.name not in uploaded)
    publication.left_out = sorted(path.name + "/" * path.is_dir() for path in others)
    problems = publication.problems
    outside = disclosure.links_that_leave(folder, chosen)
    problems += [f"{name} is a link to a file that is not in {folder}: put the file itself there" for name in outside]
    if outside:  # the files that they point to are not read
        return publication
    texts = [name for name in chosen if not name.endswith(disclosure.BINARY)]
    publication.files |= {name: chosen[name].read_bytes() for name in texts}  # the upload sends what was checked
    problems += _check_weights(publication)
    problems += _complete_card(publication, repo_id, license)
    texts = {name: file.decode(errors="replace") for name, file in publication.files.items() if isinstance(file, bytes)}
    problems += disclosure.disclosures(texts)
    if has_config:
        if "tokenizer_config.json" not in chosen:
            problems.append("there is no tokenizer: save it next to the model with tokenizer.save_pretrained")
        problems += _check_code(publication, code, trust_remote_code)
        if not problems:  # which would be reported a second time
            problems += _check_in_clean_process(publication)
    else:
        problems += _check_adapter(publication)
    return publication


def upload(publication: Publication, repo_id: str, private: bool = False, overwrite: bool = False) -> str:
    """Create the repository if need be, upload the files in one commit, all or none, and return its address.

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
    except Exception as error:  # each of the libraries below reports a lost connection in its own way
        raise OSError(_upload_message(error, repo_id)) from error
    return str(url)


def push(
    directory: str | Path, repo_id: str, license: str | None = None, private: bool = False, overwrite: bool = False,
    trust_remote_code: bool = False,
) -> str:  # fmt: skip
    """Prepare and upload a checkpoint, and return its address; raises ValueError for a problem."""
    publication = prepare(directory, repo_id, license, trust_remote_code)
    publication.require_ready()
    return upload(publication, repo_id, private, overwrite)


def _upload_message(error: Exception, repo_id: str) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return "The Hub rejects the token: log in again with `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return f"The token may not write to {repo_id}: use one with write access to that name (`hf auth login`)."
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"The upload failed, and nothing of it is in {repo_id} ({first_line(cause)}): run the same command again."


def _check_not_written(folder: Path) -> None:
    if (folder / LOCK_FILE).exists():
        try:
            with FileLock(folder / LOCK_FILE, timeout=0):
                pass
        except Timeout:
            raise FileExistsError(f"A run is writing to {folder} now: wait until it ends.") from None


def _check_weights(publication: Publication) -> list[str]:
    names = [name for name in publication.files if name.endswith(".safetensors")]
    if not names:
        pickles = [name for name in publication.left_out if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
        also = f" ({pickles[0]} is a pickle, which can run code)" if pickles else ""
        return [f"there are no weights in safetensors{also}"]
    try:
        for name in names:
            read_headers(publication.folder / name)
        if INDEX in publication.files:
            read_index(publication.folder)
    except (OSError, ValueError) as error:
        return [str(error).rstrip(".")]
    return []


def _complete_card(publication: Publication, repo_id: str, license: str | None) -> list[str]:
    """Write the license and the name on the Hub into the card, and take local paths out of card and report."""
    files, report, problems = publication.files, {}, []
    try:
        if REPORT_FILE in files:
            report = read_config(publication.folder, REPORT_FILE)
        if CARD_FILE in files:
            text = (publication.folder / CARD_FILE).read_text(encoding="utf-8")
        elif report:
            text = pretrained_card(report)
        else:
            return [f"there is no model card: write {CARD_FILE}"]
        card = ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        return [f"{CARD_FILE} or {REPORT_FILE} cannot be read ({' '.join(str(error).split())})"]
    if license is not None:
        card.data.license = license
    if Path(str(card.data.base_model)).is_absolute():  # not a name on the Hub
        card.data.base_model = None
    if not card.data.license:
        problems.append("the model card names no license: add one, for instance --license apache-2.0")
    elif not LICENSE.fullmatch(str(card.data.license)):
        remedy = "write it as in apache-2.0, mit, other"
        problems.append(f"{card.data.license!r} is not how the Hub names a license: {remedy}")
    # A result with a name is not the run's own.
    for result in (each for each in card.data.eval_results or [] if each.metric_name is None):
        kind, stated, measured = result.metric_type, result.metric_value, report.get(f"val_{result.metric_type}")
        numbers = all(isinstance(value, int | float) for value in (measured, stated))
        if measured is not None and not (numbers and abs(stated - measured) <= 1e-3 * abs(measured)):
            problems.append(f"{CARD_FILE} says {kind} {stated}, {REPORT_FILE} {measured}: they are of two runs")
    if report.get("output_dir"):
        card.text = card.text.replace(json.dumps(report["output_dir"]), json.dumps(repo_id))
    files[CARD_FILE] = str(card).encode()
    for name in {REPORT_FILE, CARD_FILE} & files.keys() if report else ():
        files[name] = disclosure.without_paths(files[name].decode(errors="replace"), report, repo_id).encode()
    publication.facts.append(f"license {card.data.license}")
    return problems


def _code_files(folder: Path, auto_map: dict) -> list[Path]:
    """Return the Python files that `auto_map` names, and those that they import from the same folder."""
    todo, found = [folder / f"{str(target).split('.')[0]}.py" for target in auto_map.values()], set()
    while todo:
        file = todo.pop()
        if file not in found and file.is_file():
            found.add(file)
            todo += [folder / f"{name}.py" for name in get_relative_imports(file)]
    return sorted(found)


def _check_code(publication: Publication, auto_map: dict, trust_remote_code: bool) -> list[str]:
    """Check that the code that `auto_map` names is there, and is our own unless the user trusts it."""
    targets = [str(target) for target in auto_map.values()]
    if elsewhere := [target for target in targets if "--" in target]:
        return [f"config.json takes code from another repository ({elsewhere[0]}): save the model with its code"]
    missing = {f"{target.split('.')[0]}.py" for target in targets} - publication.files.keys()
    if missing:
        return [f"{name}, which config.json names, is missing" for name in sorted(missing)]
    ours = {file.name: file.read_bytes() for file in (Path(__file__).parents[1] / "modeling").glob("*.py")}
    others = [name for name, file in publication.files.items() if name.endswith(".py") and ours.get(name) != file]
    if others and not trust_remote_code:
        remedy = "read it, then allow the check to run it with --trust_remote_code, or save the model again"
        return [f"{others[0]} is not the code of this version of FolioGPT: {remedy}"]
    return []


def _check_adapter(publication: Publication) -> list[str]:
    try:
        base = read_config(publication.folder, ADAPTER_CONFIG)["base_model_name_or_path"]
        validate_repo_id(base)
    except (ValueError, KeyError):
        base = None
    if base is None or Path(base).exists():
        remedy = "push that first, and write its name on the Hub as base_model_name_or_path"
        return [f"{ADAPTER_CONFIG} names no base model that others can load ({base}): {remedy}"]
    publication.facts.append(f"adapter of {base}")
    return []


def _check_in_clean_process(publication: Publication) -> list[str]:
    """Load the files of the upload, and nothing else, in a process that cannot import this package."""
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
