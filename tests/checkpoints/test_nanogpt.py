"""nanoGPT's checkpoints come in with the logits of a plain re-statement of its model, and their pickles run nothing."""

import math
import pickle

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from foliogpt.checkpoints.conversion import convert
from foliogpt.modeling import FolioForCausalLM
from foliogpt.tokenization import train_tokenizer

CHARACTERS = "\n !,.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
ARGS = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "bias": False, "dropout": 0.1,
        "vocab_size": len(CHARACTERS)}  # fmt: skip


def checkpoint(**changed) -> dict:
    """What nanoGPT's train.py saves."""
    args = {**ARGS, **changed}
    width, g = args["n_embd"], torch.Generator().manual_seed(0)
    shapes = {"transformer.wte": (args["vocab_size"], width), "transformer.wpe": (args["block_size"], width)}
    for i in range(args["n_layer"]):
        shapes |= {
            f"transformer.h.{i}.ln_1": (width,),
            f"transformer.h.{i}.attn.c_attn": (3 * width, width),
            f"transformer.h.{i}.attn.c_proj": (width, width),
            f"transformer.h.{i}.ln_2": (width,),
            f"transformer.h.{i}.mlp.c_fc": (4 * width, width),
            f"transformer.h.{i}.mlp.c_proj": (width, 4 * width),
        }
    shapes["transformer.ln_f"] = (width,)
    model = {f"{name}.weight": torch.randn(shape, generator=g) * 0.3 for name, shape in shapes.items()}
    if args["bias"]:
        biased = [name for name in shapes if ".h." in name or "ln_f" in name]
        model |= {f"{name}.bias": torch.randn(shapes[name][0], generator=g) for name in biased}
    model["lm_head.weight"] = model["transformer.wte.weight"]
    return {
        "model": model,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95)}]},
        "model_args": args,
        "iter_num": 5,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "out_dir": "out"},
    }


def write(folder, saved: dict, meta: bool = True):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(saved, folder / "ckpt.pt")
    if meta:
        write_meta(folder)
    return folder / "ckpt.pt"


def write_meta(folder):
    ids = {character: i for i, character in enumerate(CHARACTERS)}
    names = dict(enumerate(CHARACTERS))
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(ids), "itos": names, "stoi": ids}))


def logits_by_hand(saved: dict, ids: torch.Tensor) -> torch.Tensor:
    """nanoGPT's model, position by position and head by head: none of our code, none of torch's attention."""
    w, args = saved["model"], saved["model_args"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w.get(f"{name}.bias", 0)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    x = w["transformer.wte.weight"][ids[0]] + w["transformer.wpe.weight"][: ids.shape[1]]
    size = args["n_embd"] // args["n_head"]
    for i in range(args["n_layer"]):
        name = f"transformer.h.{i}"
        q, k, v = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").split(args["n_embd"], dim=1)
        heads = []
        for h in range(0, args["n_embd"], size):
            scores = q[:, h : h + size] @ k[:, h : h + size].T / math.sqrt(size)
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ v[:, h : h + size])
        x = x + linear(torch.cat(heads, dim=1), f"{name}.attn.c_proj")
        y = linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        x = x + linear(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), f"{name}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ w["transformer.wte.weight"].T


@pytest.mark.parametrize("bias", [False, True], ids=["no biases", "biases"])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_a_checkpoint_comes_in_and_goes_on_to_gpt2(tmp_path, bias, compiled):
    saved = checkpoint(bias=bias)
    on_disk = saved
    if compiled:
        on_disk = {**saved, "model": {f"_orig_mod.{name}": tensor for name, tensor in saved["model"].items()}}
    path = write(tmp_path / "out", on_disk)
    assert convert(path, tmp_path / "folio", "folio").kind == "nanogpt"
    convert(path, tmp_path / "gpt2", "gpt2")
    ids = torch.randint(len(CHARACTERS), (1, 48))
    expected = logits_by_hand(saved, ids)
    for model in (
        FolioForCausalLM.from_pretrained(tmp_path / "folio"),
        GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2"),
    ):
        torch.testing.assert_close(model(ids).logits[0], expected, atol=1e-4, rtol=1e-4)
        assert model.config.tie_word_embeddings
        assert model.config.eos_token_id is None


def test_the_characters_become_the_tokenizer_and_unknown_ones_are_left_out(tmp_path):
    convert(write(tmp_path / "out", checkpoint()), tmp_path / "folio", "folio")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folio")
    text = "Is it folded?\n No, a  quarto."
    assert tokenizer(text)["input_ids"] == [CHARACTERS.index(c) for c in text if c in CHARACTERS]
    assert tokenizer.decode(tokenizer("O café ,\n b")["input_ids"]) == "O caf ,\n b"


def test_the_characters_are_found_in_the_folder_of_the_data(tmp_path):
    path = write(tmp_path / "out", checkpoint(), meta=False)
    with pytest.raises(FileNotFoundError, match=f"vocabulary of {len(CHARACTERS)}.*meta.pkl"):
        convert(path, tmp_path / "folio", "folio")
    (tmp_path / "data" / "shakespeare_char").mkdir(parents=True)
    write_meta(tmp_path / "data" / "shakespeare_char")
    convert(path, tmp_path / "folio", "folio")


def test_without_characters_the_tokens_are_gpt2s(tmp_path):
    path = write(tmp_path / "out", checkpoint(vocab_size=50304), meta=False)
    with pytest.raises(OSError, match=r"tokens are GPT-2's.*tokenizer.json"):
        convert(path, tmp_path / "folio", "folio")
    train_tokenizer(["a stand-in for GPT-2's"] * 99, 262, show_progress=False).save_pretrained(tmp_path / "out")
    convert(path, tmp_path / "folio", "folio")
    assert FolioForCausalLM.from_pretrained(tmp_path / "folio").config.eos_token_id == 0


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("where", ["checkpoint", "meta"])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path, where):
    fuse = tmp_path / "went-off"
    saved = checkpoint()
    if where == "checkpoint":
        saved["config"]["dataset"] = Bomb(fuse)
    path = write(tmp_path / "out", saved)
    if where == "meta":
        (tmp_path / "out" / "meta.pkl").write_bytes(pickle.dumps({"stoi": {"a": Bomb(fuse)}}))
    with pytest.raises(ValueError, match="not read") as caught:
        convert(path, tmp_path / "folio", "folio")
    assert "\n" not in str(caught.value)
    assert not fuse.exists()
    assert not (tmp_path / "folio").exists()


def spoil(**changed):
    return lambda saved: saved["model_args"].update(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil(n_embd=64), r"shapes differ.*transformer.wte.weight"),
        (spoil(n_layer=3), r"lacks transformer.h.2.ln_1.weight"),
        (spoil(bias=True), r"lacks transformer.h.0.ln_1.bias"),
        (spoil(n_layer=10**9), "n_layer=1000000000, but"),
        (
            lambda saved: saved["model"].update({"transformer.wte.weight": torch.ones(3, dtype=torch.int8)}),
            "neither float32",
        ),
        (spoil(n_head=5), r"n_embd \(32\) is not a multiple of n_head \(5\)"),
        (spoil(block_size="long"), "block_size='long'"),
        (spoil(block_size=2**70), "block_size=1180591620717411303424"),
        (spoil(bias="yes"), "bias='yes'"),
        (spoil(dropout=5), "dropout=5"),
        (spoil(dropout=math.nan), "dropout=nan"),
        (
            lambda saved: saved["model"].update({"transformer.wte.weight": torch.eye(3).to_sparse()}),
            "transformer.wte.weight is sparse",
        ),
        (lambda saved: saved["model"].update({"transformer.h.0.moe": torch.zeros(1)}), "has transformer.h.0.moe"),
        (lambda saved: saved.pop("model_args"), "is not nanoGPT's"),
        (
            lambda saved: saved["model"].update({"lm_head.weight": saved["model"]["transformer.wte.weight"] + 1}),
            "lm_head.weight is not transformer.wte.weight",
        ),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused_by_name(tmp_path, change, message):
    saved = checkpoint()
    change(saved)
    path = write(tmp_path / "out", saved)
    with pytest.raises(ValueError, match=message):
        convert(path, tmp_path / "folio", "folio")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_checkpoint_that_is_cut_off_is_refused(tmp_path, share):
    path = write(tmp_path / "out", checkpoint())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"ckpt.pt .*(cut off|damaged)"):
        convert(path, tmp_path / "folio", "folio")


@pytest.mark.parametrize("ids", [{"ab": 0}, {"a": 0, "b": 0}, {"a": 10_000}, {"a": True}, ["a"], None])
def test_characters_that_make_no_sense_are_refused(tmp_path, ids):
    path = write(tmp_path / "out", checkpoint())
    (tmp_path / "out" / "meta.pkl").write_bytes(pickle.dumps({"stoi": ids}))
    with pytest.raises(ValueError, match="stoi"):
        convert(path, tmp_path / "folio", "folio")
