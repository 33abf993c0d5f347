"""Uploads are complete, load elsewhere, and disclose nothing private; tested with a Hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import READER, WRITER, FakeHub
from filelock import FileLock
from huggingface_hub import ModelCard, constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from foliogpt import checkpoints
from foliogpt.checkpoints import disclosure
from foliogpt.checkpoints.publishing import prepare, upload
from foliogpt.modeling import AUTO_CLASSES, FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

CARD = "---\nlibrary_name: transformers\n---\n\n# A model\n"
IDS = torch.arange(5, 17)[None]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)


def tiny_config():
    return preset_config(
        "folio", "nano", vocab_size=265, hidden_size=32, num_hidden_layers=2, intermediate_size=48,
        max_position_embeddings=64, residual_init="normal",
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    FolioForCausalLM(tiny_config()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "run"))


@pytest.fixture
def without_loading(monkeypatch):
    """Leaves out the check in another process, which takes seconds and is not what these tests are about."""
    monkeypatch.setattr("foliogpt.checkpoints.publishing._check_in_clean_process", lambda publication: [])


@pytest.fixture
def hub():
    with FakeHub() as hub:
        yield hub


def environment(hub: FakeHub, home: Path, token: str = WRITER) -> dict[str, str]:
    set_here = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # Xet is another service, and its client a binary
    }
    return {**os.environ, **set_here}


@pytest.fixture
def here(hub, monkeypatch, tmp_path):
    """Make huggingface_hub use the fake in this process, too."""
    for name, value in {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made once a process, for the endpoint at that time
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its attempts


def push(folder: Path, *argv: str) -> int:
    return main(["push", str(folder), "--repo_id", "me/gpt", "--license", "mit", *argv])


@pytest.mark.slow
def test_push_uploads_the_files_that_were_listed_and_checked(checkpoint, hub, tmp_path):
    for name in ("run.yaml", "trainer_state.json", "optimizer.pt", "pytorch_model.bin"):
        (checkpoint / name).write_text("{}")
    (checkpoint / "checkpoint-4").mkdir()
    command = [sys.executable, "-m", "foliogpt.scripts.cli", "push", str(checkpoint), "--repo_id", "me/my.gpt"]
    done = subprocess.run(
        [*command, "--license", "mit", "--private", "--yes"],
        env=environment(hub, tmp_path / "home"), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "parameters loads without foliogpt" in done.stdout
    arrived = hub.repos["me/my.gpt"]
    assert hub.private == {"me/my.gpt"}
    listed = {line.split()[-1] for line in done.stdout.splitlines() if " MB  " in line}
    assert arrived.keys() == listed | {".gitattributes"}
    assert not {"run.yaml", "trainer_state.json", "optimizer.pt", "pytorch_model.bin"} & listed
    assert ModelCard(arrived["README.md"].decode()).data.license == "mit"
    assert (checkpoint / "README.md").read_text() == CARD


@pytest.mark.usefixtures("without_loading", "here")
def test_push_sends_nothing_without_yes_and_replaces_nothing_without_overwrite(checkpoint, hub, capsys):
    assert push(checkpoint) == 0
    assert "Nothing was sent" in capsys.readouterr().out
    assert not hub.repos
    assert push(checkpoint, "--yes") == 0
    assert hub.private == set()
    before = hub.repos["me/gpt"]
    assert push(checkpoint, "--yes") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert len(hub.commits) == 1
    (checkpoint / "generation_config.json").unlink()
    assert push(checkpoint, "--yes", "--overwrite") == 0
    assert before.keys() - hub.repos["me/gpt"].keys() == {"generation_config.json"}


@pytest.mark.usefixtures("without_loading", "here")
def test_push_from_python_uploads_once_and_rejects_a_checkpoint_with_problems(checkpoint, hub):
    assert checkpoints.push(checkpoint, "me/gpt", license="mit").endswith("/me/gpt")
    assert "model.safetensors" in hub.repos["me/gpt"]
    (checkpoint / "README.md").unlink()
    with pytest.raises(ValueError, match="Not ready for the Hub: there is no model card"):
        checkpoints.push(checkpoint, "me/other", license="mit")
    assert "me/other" not in hub.repos


@pytest.mark.usefixtures("without_loading", "here")
def test_push_with_private_rejects_a_public_repository(checkpoint, hub, capsys):
    assert push(checkpoint, "--yes") == 0
    before = hub.repos["me/gpt"]
    assert push(checkpoint, "--yes", "--private", "--overwrite") == 2
    assert "is on the Hub and public" in capsys.readouterr().err
    assert (hub.repos["me/gpt"], len(hub.commits)) == (before, 1)
    hub.private.add("me/gpt")
    assert push(checkpoint, "--yes", "--private", "--overwrite") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_every_head_comes_back_from_the_hub_bit_for_bit(hub, tokenizer, tmp_path):
    expected = {}
    for name, model_class in AUTO_CLASSES.items():
        torch.manual_seed(1)
        model = model_class(tiny_config()).eval()
        model.push_to_hub(f"me/{name}")
        tokenizer.push_to_hub(f"me/{name}")
        with torch.no_grad():
            expected[name] = model(IDS)[0]
    loading = """
import sys
sys.modules["foliogpt"] = None
import torch, transformers
from safetensors.torch import save_file
torch.set_num_threads(1)
out = {}
for name in sys.argv[1:]:
    model = getattr(transformers, name).from_pretrained(f"me/{name}", trust_remote_code=True).eval()
    assert len(transformers.AutoTokenizer.from_pretrained(f"me/{name}", trust_remote_code=False)) == 265
    with torch.no_grad():
        out[name] = model(torch.arange(5, 17)[None])[0].contiguous()
save_file(out, "out.safetensors")
"""
    command = [sys.executable, "-c", loading, *AUTO_CLASSES]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(hub, tmp_path / "home"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    arrived = load_file(tmp_path / "out.safetensors")
    for name in AUTO_CLASSES:
        assert torch.equal(arrived[name], expected[name]), name


@pytest.mark.usefixtures("without_loading", "here")
def test_push_reports_an_error_of_the_hub_in_one_line(checkpoint, hub, capsys, monkeypatch):
    def refusal() -> str:
        capsys.readouterr()
        assert push(checkpoint, "--yes") == 2
        said = capsys.readouterr().err.partition("folio push:")[2]  # after progress bars, which the command turns off
        assert said.count("\n") == 1
        return said

    for token, says in (("", "hf auth login"), ("hf_nobody", "rejects the token"), (READER, "may not write")):
        monkeypatch.setenv("HF_TOKEN", token)
        assert says in refusal()
    monkeypatch.setenv("HF_TOKEN", WRITER)
    hub.lose_uploads = True
    assert "run the same command again" in refusal()
    assert hub.repos["me/gpt"].keys() == {".gitattributes"}
    hub.lose_uploads = False
    assert push(checkpoint, "--yes") == 0
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody is
    assert "run the same command again" in refusal()


def spoil_index(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00003.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def anothers_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModelForCausalLM"] = "them/theirs--modeling_folio.FolioForCausalLM"
    (folder / "config.json").write_text(json.dumps(config))


def another_runs_card(folder: Path, value=1.5) -> None:
    result = {
        "task": {"type": "text-generation"},
        "dataset": {"name": "y", "type": "text"},
        "metrics": [{"type": "bits_per_byte", "value": value}],
    }
    metadata = {"model-index": [{"name": "x", "results": [result]}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(metadata)}\n---\n")
    (folder / "report.json").write_text(json.dumps({"val_bits_per_byte": 2.5}))


SPOILT = [
    (lambda folder: (folder / "modeling_folio.py").unlink(), "modeling_folio.py, which config.json names, is missing"),
    (lambda folder: (folder / "block.py").write_text("import os"), "block.py is not the code of this version"),
    (lambda folder: (folder / "tokenizer_config.json").unlink(), "no tokenizer"),
    (lambda folder: (folder / "README.md").unlink(), "no model card"),
    (lambda folder: (folder / "README.md").write_text("---\n: [\n---\n"), "cannot be read"),
    (lambda folder: (folder / "README.md").write_text(f"{CARD}\n--hub_token hf_{'a1' * 17}\n"), "secret token"),
    (spoil_weights, "model.safetensors is cut off"),
    (spoil_index, "model-00002-of-00003.safetensors, which"),
    (only_a_pickle, "pytorch_model.bin is a pickle"),
    (anothers_code, "takes code from another repository (them/theirs--"),
    (another_runs_card, "they are of two runs"),
    (lambda folder: another_runs_card(folder, "low"), "says bits_per_byte low"),
    (lambda folder: (folder / "report.json").write_text("[]"), "report.json is not a JSON object"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": []}}'), "not an index"),
]


@pytest.mark.parametrize(("spoil", "says"), SPOILT, ids=[says for _, says in SPOILT])
@pytest.mark.usefixtures("without_loading")
def test_prepare_finds_problems_that_others_would_have(checkpoint, capsys, spoil, says):
    spoil(checkpoint)
    assert main(["push", str(checkpoint), "--repo_id", "me/gpt", "--license", "mit"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Not ready for the Hub" in line
    assert says in line
    assert "a1a1" not in line


@pytest.mark.usefixtures("without_loading")
def test_push_needs_a_license_a_name_and_a_checkpoint(checkpoint, capsys, tmp_path):
    for argv, says in (
        ([checkpoint, "--repo_id", "me/gpt"], "--license apache-2.0"),
        ([checkpoint, "--repo_id", "me/gpt", "--license", "My Own"], "My Own"),
        ([checkpoint, "--repo_id", "me/my/gpt"], "cannot be a name"),
        ([tmp_path / "nowhere", "--repo_id", "me/gpt"], "no checkpoint's directory"),
        ([tmp_path, "--repo_id", "me/gpt"], "has no config.json"),
        ([checkpoint], "--repo_id"),
    ):
        assert main(["push", *map(str, argv)]) == 2
        assert says in capsys.readouterr().err
    with FileLock(checkpoint / ".lock"):
        assert main(["push", str(checkpoint), "--repo_id", "me/gpt", "--license", "mit"]) == 2
    assert "A run is writing" in capsys.readouterr().err
    for config, says in (("{", "config.json is not JSON"), ('{"auto_map": ["a.B"]}', "is no mapping")):
        (checkpoint / "config.json").write_text(config)
        assert push(checkpoint) == 2
        assert says in capsys.readouterr().err


@pytest.mark.usefixtures("without_loading")
def test_the_card_of_a_run_names_the_repository_where_it_named_a_folder(checkpoint):
    (checkpoint / "report.json").write_text(json.dumps({"output_dir": "runs/x", "val_bits_per_byte": 2.5}))
    (checkpoint / "README.md").write_text(CARD + 'pipeline("text-generation", "runs/x", trust_remote_code=True)\n')
    card = prepare(checkpoint, "me/gpt", "mit").files["README.md"].decode()
    assert 'pipeline("text-generation", "me/gpt"' in card


@pytest.mark.usefixtures("without_loading")
def test_prepare_rejects_links_to_files_outside(checkpoint, tmp_path):
    (tmp_path / "id_rsa").write_text("my key")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    (checkpoint / "inside.txt").write_text("a licence")
    (checkpoint / "LICENSE").symlink_to("inside.txt")
    assert prepare(checkpoint, "me/gpt", "mit").problems == []
    for name, target in (("added_tokens.json", tmp_path / "id_rsa"), ("1_Pooling", tmp_path / "elsewhere")):
        (checkpoint / name).symlink_to(target)
        (problem,) = prepare(checkpoint, "me/gpt", "mit").problems
        assert f"{name}" in problem
        assert "is a link to a file that is not in" in problem
        (checkpoint / name).unlink()
    (checkpoint / "README.md").unlink()
    (checkpoint / "README.md").symlink_to(tmp_path / "id_rsa")
    assert b"my key" not in prepare(checkpoint, "me/gpt", "mit").files.values()


@pytest.mark.usefixtures("without_loading", "here")
def test_upload_sends_the_bytes_that_were_checked(checkpoint, hub, tmp_path):
    secret = tmp_path / "id_rsa"
    secret.write_text("my key")
    code = next(checkpoint.glob("*.py"))
    changed, before = [checkpoint / "tokenizer.json", checkpoint / "config.json", code], {}
    publication = prepare(checkpoint, "me/gpt", "mit")
    for file in changed:
        before[file.name] = file.read_bytes()
        file.unlink()
        file.symlink_to(secret)
    upload(publication, "me/gpt")
    assert {name: hub.repos["me/gpt"][name] for name in before} == before
    weights = checkpoint / "model.safetensors"
    weights.unlink()
    weights.symlink_to(secret)
    with pytest.raises(OSError, match="has become a link since it was checked: nothing was sent"):
        upload(publication, "me/other")
    assert "me/other" not in hub.repos


@pytest.mark.usefixtures("without_loading")
def test_prepare_accepts_the_links_of_the_hub_clients_cache(saved, tmp_path):
    blobs, snapshot = tmp_path / "models--me--gpt" / "blobs", tmp_path / "models--me--gpt" / "snapshots" / "1234"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(saved.iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert prepare(snapshot, "me/gpt", "mit").problems == []
    (snapshot / "LICENSE").symlink_to("../../../secret")
    (tmp_path / "secret").write_text("a secret")
    (problem,) = prepare(snapshot, "me/gpt", "mit").problems
    assert problem.startswith("LICENSE is a link")


@pytest.mark.usefixtures("without_loading")
def test_prepare_chooses_only_files_with_names_of_a_checkpoint(checkpoint):
    strange = [
        "run.yaml",
        "my_notes.py",
        "LICENSE_KEY.txt",
        "optimizer.safetensors",
        "model-backup.safetensors",
        ".env",
    ]
    for name in strange:
        (checkpoint / name).write_text("mine")
    publication = prepare(checkpoint, "me/gpt", "mit", trust_remote_code=True)
    assert publication.problems == []
    assert set(strange) <= set(publication.left_out)
    assert not set(strange) & publication.files.keys()
    assert {path.name for path in checkpoint.glob("*.py")} - {"my_notes.py"} <= publication.files.keys()


SECRETS = {
    "Hugging Face Token": "hf_" + "a1" * 17,
    "AWS Access Key": "AKIA" + "ABCD" * 4,
    "GitHub Token": "ghp_" + "a1" * 18,
    "GitLab Token": "glpat-" + "a1" * 10,
    "Slack Token": "xoxb-" + "123-456-abc",
    "Private Key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "Basic Auth Credentials": "https://me:" + "pass@host.example",
    "JSON Web Token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0.c2ln",
    "PyPI Token": "pypi-AgEIcHlwaS5vcmc" + "a1" * 40,
    "API Key": "sk-ant-" + "a1" * 20,
    "Telegram Bot Token": "\n123456789:" + "a1b2c" * 7 + "\n",
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("name", ["README.md", "tokenizer_config.json", "LICENSE", "report.json"])
@pytest.mark.usefixtures("without_loading")
def test_a_secret_in_any_text_is_found_and_not_repeated(checkpoint, kind, name):
    text = (checkpoint / name).read_text() if (checkpoint / name).is_file() else "{}"
    if name.endswith(".json"):
        text = json.dumps({**json.loads(text), "command": SECRETS[kind].strip()})
        if kind == "Telegram Bot Token":  # known by the line that it has for itself
            return
    else:
        text += f"\n{SECRETS[kind]}\n"
    (checkpoint / name).write_text(text)
    (problem,) = prepare(checkpoint, "me/gpt", "mit").problems
    assert problem.startswith(f"{name} contains what looks like a secret token ({kind})")
    assert SECRETS[kind].strip() not in problem


def test_vocabularies_and_weights_are_no_secrets(tokenizer, tmp_path):
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/+=_-"))
    words = {"".join(random.choice(letters, random.integers(2, 16))): i for i in range(50_000)}
    assert disclosure.disclosures({"vocab.json": json.dumps(words)}) == []
    numbers = {f"layers.{i}": random.standard_normal(64).tolist() for i in range(200)}
    assert disclosure.disclosures({"report.json": json.dumps(numbers)}) == []


@pytest.mark.usefixtures("without_loading")
def test_prepare_removes_local_paths(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    report = {
        "output_dir": str(checkpoint), "corpus": f"{tmp_path}/my data/play.txt", "val_bits_per_byte": 2.5,
        "command": f"folio pretrain --corpus={tmp_path}/my/play.txt,/srv/other.txt --output_dir {checkpoint}",
        "prompt": "the /proc/cpuinfo file",
    }  # fmt: skip
    (checkpoint / "report.json").write_text(json.dumps(report))
    card = f'{CARD}base_model("{checkpoint}") of {tmp_path}/my/play.txt and /srv/other.txt; see /v1/completions\n'
    (checkpoint / "README.md").write_text(card.replace("library_name", f"base_model: {checkpoint}\nlibrary_name"))
    publication = prepare(checkpoint, "me/gpt", "mit")
    assert publication.problems == []
    goes = publication.files["README.md"].decode()
    assert 'base_model("me/gpt") of play.txt and other.txt; see /v1/completions' in goes
    assert "base_model:" not in goes
    said = json.loads(publication.files["report.json"])
    assert said["command"] == "folio pretrain --corpus=play.txt,other.txt --output_dir me/gpt"
    assert said["prompt"] == report["prompt"]
    assert str(tmp_path) not in goes + str(said)
    assert json.loads((checkpoint / "report.json").read_text()) == report, "only what goes is changed"
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({**settings, "name_or_path": f"{tmp_path}/base"}))
    (problem,) = prepare(checkpoint, "me/gpt", "mit").problems
    assert f"tokenizer_config.json names a path of this machine ({tmp_path}/base)" in problem


@pytest.mark.slow
@pytest.mark.usefixtures("forked_strangers")
def test_prepare_finds_weights_of_another_config(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3, "layer_types": None}))
    (problem,) = prepare(checkpoint, "me/gpt", "mit").problems
    assert "it does not work in a process without foliogpt: the weights are not those of the config: " in problem


def test_prepare_accepts_an_adapter_if_others_can_load_its_base(checkpoint, tmp_path):
    adapter = get_peft_model(FolioForCausalLM.from_pretrained(checkpoint), LoraConfig(target_modules=["q_proj"]))
    folder = tmp_path / "adapter"
    adapter.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (problem,) = prepare(folder, "me/adapter", "mit").problems
    assert "no base model that others can load" in problem
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "me/gpt"}))
    publication = prepare(folder, "me/adapter", "mit")
    assert publication.problems == []
    assert publication.files.keys() == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
