"""GGUF files come in with the weights, logits and tokens that transformers reads in them, or are refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from smollm2 import smollm2_folder, smollm2_gguf
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from foliogpt.checkpoints import conversion, gguf_export
from foliogpt.checkpoints.conversion import convert
from foliogpt.checkpoints.gguf_tokenizer import SPLITS
from foliogpt.modeling import FolioConfig, FolioForCausalLM

gguf = pytest.importorskip("gguf", reason="needs pip install 'foliogpt[gguf]'")
TEXTS = (conversion.TEXT, conversion.NUMBERS, "  two  spaces 12345 isn't 🙂\n\n\t7", "<|im_start|>user\nhi<|im_end|>\n")
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


@pytest.mark.parametrize("preset", ["gpt2", "llama", "folio"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_there_and_back_is_the_same_model_and_tokenizer(save, tokenizer, tmp_path, preset, tied):
    """The vocabulary is rounded up beyond the tokenizer's, and no size is transformers' default."""
    fields = (
        {} if preset == "gpt2" else {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    )
    fields |= {f"{kind}_id": getattr(tokenizer, f"{kind}_id") for kind in SPECIAL[:3]}
    source = save(preset, vocab_size=320, tie_word_embeddings=tied, norm_eps=1e-3, **fields)
    convert(source, tmp_path / "model.gguf", "gguf")
    assert convert(tmp_path / "model.gguf", tmp_path / "back", "folio").kind == "gguf"

    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    configs = [FolioConfig.from_pretrained(folder).to_dict() for folder in (source, tmp_path / "back")]
    said_nowhere = {"_name_or_path": "", "residual_init": "", "initializer_range": "", "norm_eps": ""}
    assert {**configs[0], **said_nowhere} == {**configs[1], **said_nowhere}
    assert configs[1]["norm_eps"] == np.float32(1e-3)
    again = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert len(again) == len(tokenizer) < 320
    assert [getattr(again, name) for name in SPECIAL] == [getattr(tokenizer, name) for name in SPECIAL]
    assert again.chat_template
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_quantized_weights_are_those_that_transformers_reads(save, tmp_path, monkeypatch, kind):
    source, to = save("llama", hidden_size=64, intermediate_size=96), gguf.GGMLQuantizationType[kind]

    def quantized(writer, name, tensor):
        data = tensor.numpy()
        if tensor.dim() == 1:
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, gguf.quantize(data, to), raw_dtype=to)

    with monkeypatch.context() as patch:
        patch.setattr(gguf_export, "add_tensor", quantized)
        patch.setattr(conversion, "largest_difference", lambda *args: 1e9)
        convert(source, tmp_path / "model.gguf", "gguf")
    ids = torch.randint(304, (2, 40))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype="float32")
    for target, cls in {"folio": FolioForCausalLM, "llama": AutoModelForCausalLM}.items():
        convert(tmp_path / "model.gguf", tmp_path / target, target)
        ours = cls.from_pretrained(tmp_path / target)
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(FolioForCausalLM.from_pretrained(source)(ids).logits, theirs(ids).logits, atol=1e-4)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("bos", [True, False], ids=["bos", "no bos"])
def test_text_is_cut_as_before(save, tokenizer, tmp_path, split, bos):
    """transformers' own reader does not know the name of SmolLM2's way."""
    spec, steps = json.loads(tokenizer.backend_tokenizer.to_str()), [{"trim_offsets": True, **s} for s in SPLITS[split]]
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]
    untrained = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))
    text = conversion.TEXT + " 1623 1623 1623  1  1  22  22 333 333" * 9
    backend = untrained.train_new_from_iterator([text], 300).backend_tokenizer
    special = dict(zip(SPECIAL, ("<|endoftext|>", "<|im_end|>", "<|pad|>", "<|im_start|>"), strict=True))
    if bos:
        backend.post_processor = TemplateProcessing(
            single="<|endoftext|> $A",
            pair="<|endoftext|> $A $B",
            special_tokens=[("<|endoftext|>", backend.token_to_id("<|endoftext|>"))],
        )
    own = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    assert (own("1")["input_ids"][0] == own.bos_token_id) == bos
    convert(save("llama", tokenizer=own), tmp_path / "model.gguf", "gguf")
    assert gguf.GGUFReader(tmp_path / "model.gguf").fields["tokenizer.ggml.pre"].contents() == split
    convert(tmp_path / "model.gguf", tmp_path / "back", "folio")
    again = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert [getattr(again, name) for name in SPECIAL] == [getattr(own, name) for name in SPECIAL]
    for text in TEXTS:
        assert again(text)["input_ids"] == own(text)["input_ids"]


def test_what_is_not_understood_is_refused_by_name(save, tmp_path, monkeypatch):
    source, model_fields, to_theirs = save("llama"), gguf_export.model_fields, gguf_export.to_theirs
    for key, value in {"llama.rope.scaling.type": "linear", "llama.expert_count": 8}.items():
        with monkeypatch.context() as patch:
            patch.setattr(gguf_export, "model_fields", lambda *args, e={key: value}: {**model_fields(*args), **e})
            convert(source, tmp_path / f"{key}.gguf", "gguf")
        with pytest.raises(ValueError, match=f"{key} is {value!r} in .*: convert the safetensors checkpoint"):
            convert(tmp_path / f"{key}.gguf", tmp_path / "back", "folio")

    def with_frequencies(*args):  # as llama.cpp writes the RoPE of Llama 3.1
        known = tensor_names(*args)
        return lambda theirs: theirs if theirs == "rope_freqs.weight" else known(theirs)

    tensor_names = gguf_export.tensor_names
    with monkeypatch.context() as patch:
        patch.setattr(gguf_export, "to_theirs", lambda *args: {**to_theirs(*args), "rope_freqs.weight": torch.ones(4)})
        patch.setattr(gguf_export, "tensor_names", with_frequencies)
        convert(source, tmp_path / "rope.gguf", "gguf")
    with pytest.raises(ValueError, match=r"it has rope_freqs.weight, which the config has no place for"):
        convert(tmp_path / "rope.gguf", tmp_path / "back", "folio")
    assert not (tmp_path / "back").exists()


def test_a_damaged_file_another_architecture_and_an_unknown_split_are_refused(save, tmp_path):
    convert(save("llama"), tmp_path / "model.gguf", "gguf")
    whole = (tmp_path / "model.gguf").read_bytes()
    key = b"tokenizer.ggml.merges"
    merge = (
        whole.index(key) + len(key) + 24
    )  # the first, behind the types of the array, its length, and that of the merge
    cases = {
        "The tokenizer in .* is damaged": whole[:merge] + b"\x01" + whole[merge + 1 :],
        "cut off": whole[: len(whole) // 3],
        "is no GGUF file": b"GGUF is not all",
        "architecture 'mamba'": whole.replace(b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
                                              b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0mamba"),
        "tokenizer.ggml.pre is 'gpt-7'": whole.replace(b"\x05\0\0\0\0\0\0\0gpt-2", b"\x05\0\0\0\0\0\0\0gpt-7"),
    }  # fmt: skip
    for message, content in cases.items():
        (tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            convert(tmp_path / "bad.gguf", tmp_path / "back", "folio")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is a gguf checkpoint already"):
        convert(tmp_path / "model.gguf", tmp_path / "other.gguf", "gguf")
    assert not (tmp_path / "back").exists()


@pytest.mark.slow
def test_a_pretrained_model_comes_in_from_four_bits_and_goes_out_again(tmp_path):
    file, folder = smollm2_gguf(), smollm2_folder()
    convert(file, tmp_path / "ours", "folio")
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer, their_tokenizer = (AutoTokenizer.from_pretrained(path) for path in (tmp_path / "ours", folder))
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == their_tokenizer(text)["input_ids"]
    ids = tokenizer(conversion.TEXT, return_tensors="pt")["input_ids"]
    ours = FolioForCausalLM.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=5e-4, rtol=0)
    assert (tokenizer.unk_token, len(tokenizer), ours.config.vocab_size) == ("<|endoftext|>", 49152, 49152)
    # Each digit is a token, and no space goes with it.
    assert tokenizer.tokenize("x =  12") == ["x", "Ġ=", "ĠĠ", "1", "2"]

    convert(tmp_path / "ours", tmp_path / "again.gguf", "gguf")
    before, after = (gguf.GGUFReader(path).fields for path in (file, tmp_path / "again.gguf"))
    for name in ("tokens", "token_type", "merges", "pre", "unknown_token_id", "padding_token_id", "bos_token_id"):
        assert before[f"tokenizer.ggml.{name}"].contents() == after[f"tokenizer.ggml.{name}"].contents(), name
