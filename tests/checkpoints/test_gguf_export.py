"""GGUF files, read back by transformers and, where it is installed, by llama.cpp itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from smollm2 import smollm2_folder, smollm2_gguf
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from foliogpt.checkpoints import conversion
from foliogpt.checkpoints.conversion import convert
from foliogpt.checkpoints.gguf_tokenizer import SPLITS, load_gguf_tokenizer
from foliogpt.modeling import FolioForCausalLM
from foliogpt.tokenization import train_char_tokenizer, train_tokenizer

gguf = pytest.importorskip("gguf", reason="needs pip install 'foliogpt[gguf]'")
ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "folio": "qwen3"}  # preset: architecture of llama.cpp's
TEXTS = (conversion.TEXT, conversion.NUMBERS, "  two  spaces 12345 isn't 🙂\n\n\t7", "<|im_start|>user\nhi<|im_end|>\n")
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
PAGE = Path(__file__).parents[2] / "docs" / "interchange.md"
CHAT = [{"role": "system", "content": "Fold."}, {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "Once."}]  # fmt: skip


@pytest.mark.parametrize("preset", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_transformers_reads_the_same_weights_logits_and_tokens(save, tokenizer, tmp_path, preset, tied, dtype):
    fields = (
        {} if preset == "gpt2" else {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    )
    source = save(preset, dtype, tie_word_embeddings=tied, norm_eps=1e-3, intermediate_size=128, **fields)
    convert(source, tmp_path / "model.gguf", "gguf")

    ours = FolioForCausalLM.from_pretrained(source, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    assert theirs.config.model_type == ARCHITECTURES[preset]
    assert theirs.config.tie_word_embeddings == tied
    assert theirs.config.max_position_embeddings == 64
    ids = torch.randint(304, (2, 40))
    torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=1e-4, rtol=0)
    if preset != "gpt2":
        before = ours.state_dict()
        assert all(torch.equal(tensor, before[name]) for name, tensor in theirs.state_dict().items())

    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in (conversion.TEXT, "  two  spaces\n\n\ttabs 12345 isn't 🙂🙂", "<|im_start|>user\nhi<|im_end|>\n"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (0, 0, 1)


@pytest.mark.parametrize("preset", ["llama", "folio"])
def test_a_file_comes_back_the_way_that_the_page_shows(save, tokenizer, tmp_path, monkeypatch, preset):
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    source = save(preset, tie_word_embeddings=False, **ids)
    convert(source, tmp_path / "runs" / "mine.gguf", "gguf")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    exec(code, {})
    convert("runs/from-gguf", "runs/back", "folio")
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "runs" / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    again = AutoTokenizer.from_pretrained("runs/back")
    assert [again(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert again.eos_token == tokenizer.eos_token
    assert again.chat_template


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("bos", [True, False], ids=["bos", "no bos"])
def test_load_gguf_tokenizer_cuts_text_as_before(save, tokenizer, tmp_path, split, bos):
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
    again = load_gguf_tokenizer(tmp_path / "model.gguf")
    assert [getattr(again, name) for name in SPECIAL] == [getattr(own, name) for name in SPECIAL]
    for text in TEXTS:
        assert again(text)["input_ids"] == own(text)["input_ids"]


@pytest.mark.slow
def test_the_tokenizer_of_a_pretrained_model_is_written_as_its_makers_wrote_it(tmp_path):
    convert(smollm2_folder(), tmp_path / "again.gguf", "gguf")
    before, after = (gguf.GGUFReader(path).fields for path in (smollm2_gguf(), tmp_path / "again.gguf"))
    for name in ("tokens", "token_type", "merges", "pre", "unknown_token_id", "padding_token_id", "bos_token_id"):
        assert before[f"tokenizer.ggml.{name}"].contents() == after[f"tokenizer.ggml.{name}"].contents(), name


def test_the_chat_template_prints_the_same_without_the_tag_that_llama_cpp_does_not_know(save, tokenizer, tmp_path):
    convert(save("folio"), tmp_path / "model.gguf", "gguf")
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert "generation %}" in tokenizer.chat_template
    assert "generation %}" not in again.chat_template
    expected = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert again.apply_chat_template(CHAT, tokenize=False) == expected


def test_a_gpt2_of_another_width_is_written_although_transformers_cannot_read_it(save, tmp_path):
    convert(save("gpt2", intermediate_size=48), tmp_path / "model.gguf", "gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert reader.fields["gpt2.feed_forward_length"].contents() == 48


def test_a_vocabulary_that_was_rounded_up_is_filled(save, tmp_path):
    convert(save("folio", vocab_size=320), tmp_path / "model.gguf", "gguf")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    tokens, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    assert (tokens[299:301], types[:4], types[299:301]) == ([tokens[299], "[PAD300]"], [3, 3, 3, 3], [1, 5])
    assert len(tokens) == len(types) == 320


@pytest.mark.parametrize(
    ("preset", "fields", "message"),
    [
        ("folio", {"sliding_window": 8}, "sliding_window is 8"),
        ("folio", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("folio", {"attention_bias": True}, "attention_bias is True"),
        ("gpt2", {"hidden_act": "gelu"}, "nearest is gpt2: hidden_act is 'gelu'"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ("vaswani", {}, "position_embedding_type is 'sinusoidal'"),
        ("speedrun", {}, "final_logit_softcapping"),
    ],
)  # fmt: skip
def test_convert_names_the_fields_that_llama_cpp_lacks(save, tmp_path, preset, fields, message):
    source = save(preset, **fields)
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "model.gguf", "gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_convert_rejects_a_tokenizer_that_llama_cpp_lacks(save, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="WordLevel that is not byte-level"):
        convert(save("folio", tokenizer=train_char_tokenizer(["abc"])), tmp_path / "model.gguf", "gguf")
    tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    try:
        with pytest.raises(ValueError, match="no name for"):
            convert(save("folio"), tmp_path / "model.gguf", "gguf")
    finally:
        tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = False
    with pytest.raises(ValueError, match="no merges"):
        convert(save("folio", tokenizer=train_tokenizer(["abc"], 260)), tmp_path / "model.gguf", "gguf")
    with pytest.raises(ValueError, match=r"The tokenizer has id \d+ .* but vocab_size is 290"):
        convert(save("folio", vocab_size=290), tmp_path / "model.gguf", "gguf")
    source = save("folio")
    for file in source.glob("tokenizer*"):
        file.unlink()
    (source / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="this checkpoint has none"):
        convert(source, tmp_path / "model.gguf", "gguf")


def test_the_name_must_end_in_gguf_and_the_package_be_there(save, tmp_path, monkeypatch):
    source = save("folio")
    with pytest.raises(ValueError, match=r"call it model.gguf"):
        convert(source, tmp_path / "model", "gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"pip install 'foliogpt\[gguf\]'"):
        convert(source, tmp_path / "model.gguf", "gguf")


@pytest.mark.parametrize("preset", ARCHITECTURES)
def test_q8_0_rounds_each_32_weights_of_a_row_to_127_steps_of_their_largest(save, tmp_path, preset):
    source = save(preset, hidden_size=64, intermediate_size=80, tie_word_embeddings=False)
    done = convert(source, tmp_path / "model.gguf", "gguf")
    rounded = convert(source, tmp_path / "rounded.gguf", "gguf", "q8_0")
    assert done.quantization_error is None
    assert 0 < rounded.quantization_error < 0.1
    files = [gguf.GGUFReader(tmp_path / name) for name in ("model.gguf", "rounded.gguf")]
    assert [file.fields["general.file_type"].contents() for file in files] == [0, 7]
    assert files[1].fields["general.quantization_version"].contents() == 2
    kinds = set()
    for before, after in zip(*(file.tensors for file in files), strict=True):
        exact, kind = torch.tensor(before.data), after.tensor_type.name
        got = torch.tensor(gguf.quants.dequantize(after.data, after.tensor_type)).view_as(exact)
        kinds.add(kind)
        if exact.dim() == 1 or before.name == "position_embd.weight":
            assert kind == "F32"
            assert torch.equal(got, exact)
        elif exact.shape[-1] == 80:  # no whole blocks
            assert kind == "F16"
            assert torch.equal(got, exact.half().float())
        else:
            assert kind == "Q8_0"
            blocks = exact.unflatten(-1, (-1, 32))
            step = blocks.abs().amax(-1, keepdim=True) / 127
            assert ((got.unflatten(-1, (-1, 32)) - blocks).abs() <= step * (0.5 + 127 * 2**-11)).all()  # float16 steps
    assert kinds == {"F32", "F16", "Q8_0"}


def test_q8_0_that_spoils_a_model_is_not_written(save, tmp_path):
    source = save("folio")
    weights = load_file(source / "model.safetensors")
    for weight in weights.values():
        if weight.dim() == 2:
            weight[:, 0] = 1e3  # beside it, all others of a block become 0
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"q8_0 changes the logits by \d+% of their variation: convert without"):
        convert(source, tmp_path / "model.gguf", "gguf", "q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(("to", "quantize"), [("qwen3", "q8_0"), ("gguf", "int8")])
def test_quantize_is_q8_0_for_gguf(save, tmp_path, to, quantize):
    with pytest.raises(ValueError, match=rf"--quantize {quantize} is not possible for {to}: only q8_0 is, for gguf"):
        convert(save("folio"), tmp_path / "model.gguf", to, quantize)


LLAMA_CPP = """
import json, sys
from xllamacpp import CommonParams, Server, ggml_type, llama_flash_attn_type
path, text, *lists = sys.argv[1:]
ids, parts = map(json.loads, lists)
settings = CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = path, 256, 1, False
settings.cache_type_k = settings.cache_type_v = ggml_type.GGML_TYPE_F32
settings.flash_attn_type = llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = Server(settings)
asked = {"max_tokens": 100, "temperature": 0.0, "logprobs": 1, "ignore_eos": True}
asked["logit_bias"] = [[part, False] for part in parts]
done = [server.handle_completions({"prompt": prompt, **asked})["choices"][0] for prompt in (text, ids)]
chat = server.handle_chat_completions({"messages": [{"role": "user", "content": "Fold."}], "max_tokens": 2})
print(json.dumps({"texts": [each["logprobs"]["content"] for each in done], "chat": chat["choices"][0]["message"]}))
"""


def continued_by_llama_cpp(path, tokenizer, text):
    """Return the tokens that llama.cpp chooses after a text, and after its ids, with their log-probabilities."""
    pytest.importorskip("xllamacpp", reason="needs pip install xllamacpp, which is llama.cpp")
    # The server tells nothing of tokens that are a part of a character.
    parts = [id for id in range(len(tokenizer)) if "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([id])]
    lists = json.dumps(tokenizer(text)["input_ids"]), json.dumps(parts)
    command = [sys.executable, "-c", LLAMA_CPP, str(path), text, *lists]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["chat"]["role"] == "assistant"
    return parts, got["texts"]


PROMPT = "<|im_start|>user\nIn 1623 thirty-six plays isn't Größe, 東京 🙂<|im_end|>\n"


@pytest.mark.parametrize("preset", ARCHITECTURES)
def test_llama_cpp_itself_continues_a_prompt_with_the_same_tokens(save, tokenizer, tmp_path, preset):
    source = save(preset, max_position_embeddings=256, tie_word_embeddings=False)
    convert(source, tmp_path / "model.gguf", "gguf")
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    parts, texts = continued_by_llama_cpp(tmp_path / "model.gguf", tokenizer, PROMPT)

    model = FolioForCausalLM.from_pretrained(source)
    limits = {"min_new_tokens": 100, "max_new_tokens": 100, "suppress_tokens": parts}
    expected = model.generate(ids, do_sample=False, **limits)
    with torch.no_grad():
        logprobs = model(expected).logits.log_softmax(-1)[0, ids.shape[1] - 1 : -1]
    for tokens in texts:  # of the text, which it cuts as the tokenizer does, and of the tokens
        assert [token["id"] for token in tokens] == expected[0, ids.shape[1] :].tolist()
        found = torch.tensor([token["logprob"] for token in tokens])
        chosen = logprobs.gather(-1, expected[0, ids.shape[1] :, None])[:, 0]
        torch.testing.assert_close(found, chosen, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("preset", ARCHITECTURES)
def test_llama_cpp_itself_computes_nearly_the_same_from_q8_0(save, tokenizer, tmp_path, preset):
    """It rounds the states to 8 bits as well, before it multiplies."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 256}
    source = save(preset, **sizes, initializer_range=0.1, tie_word_embeddings=False)
    convert(source, tmp_path / "model.gguf", "gguf", "q8_0")
    _, (_, tokens) = continued_by_llama_cpp(tmp_path / "model.gguf", tokenizer, PROMPT)
    ids = torch.tensor([*tokenizer(PROMPT)["input_ids"], *(token["id"] for token in tokens)])
    with torch.no_grad():
        logprobs = FolioForCausalLM.from_pretrained(source)(ids[None]).logits.log_softmax(-1)[0, :-1]
    chosen = logprobs.gather(-1, ids[1:, None])[-len(tokens) :, 0]
    found = torch.tensor([token["logprob"] for token in tokens])
    torch.testing.assert_close(found, chosen, atol=0.15, rtol=0)
