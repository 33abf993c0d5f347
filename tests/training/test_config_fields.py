"""Every field of FolioConfig is a setting: a flag, a line of YAML, and something that a run keeps."""

import dataclasses

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedConfig

from foliogpt.data.arguments import CorpusArguments
from foliogpt.modeling import FolioConfig, FolioForCausalLM
from foliogpt.modeling.presets import PRESETS, SIZES
from foliogpt.scripts.arguments import parse
from foliogpt.tokenization import train_char_tokenizer
from foliogpt.training.arguments import ModelArguments, PretrainingArguments, run_settings
from foliogpt.training.config_fields import FIELDS, NOT_FLAGS
from foliogpt.training.new_model import configured_model, starting_config
from foliogpt.training.scaling.plan import SHAPE, ScaleArguments

# A value of each field that is not its default, and does not contradict the others.
VALUES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 10,
    "intermediate_size": 72,
    "hidden_act": "gelu",
    "gated_mlp": False,
    "attention_bias": True,
    "mlp_bias": True,
    "qk_norm": False,
    "position_embedding_type": "rope",
    "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
    "scale_embeddings": True,
    "norm_type": "layernorm",
    "norm_position": "post",
    "norm_eps": 1e-05,
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 8,
    "tie_word_embeddings": False,
    "final_logit_softcapping": 12.5,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.25,
    "initializer_range": 0.03,
    "residual_init": "normal",
}
BLOCK = 32


def flags(fields: dict) -> list[str]:
    """As a person writes them: lists as words, dicts as JSON."""
    words = []
    for name, value in fields.items():
        written = yaml.safe_dump(value, default_flow_style=True).splitlines()[0]
        words += [f"--{name}", *(value if isinstance(value, list) else [written if value != 1e-05 else "1e-05"])]
    return [word.replace("{", '{"').replace(": ", '": ').replace(", ", ', "').replace("linear", '"linear"')
            if word.startswith("{") else word for word in words]  # fmt: skip


def model_of(argv: list[str]) -> ModelArguments:
    _, model, _ = parse(argv, [CorpusArguments, ModelArguments, PretrainingArguments], "folio pretrain", "")
    return model


def test_there_is_a_value_for_every_field_that_a_user_may_set():
    assert set(VALUES) == set(FIELDS)
    assert set(FIELDS) | NOT_FLAGS == set(FolioConfig.__annotations__)
    assert {f.name for f in dataclasses.fields(ModelArguments)} >= set(FIELDS)
    assert set(FIELDS) <= set(PretrainingArguments.IMMUTABLE_ON_RESUME)
    assert {f.name for f in dataclasses.fields(ScaleArguments)} >= set(FIELDS) - set(SHAPE)


def test_flags_are_the_fields_of_the_config():
    config = starting_config(model_of([*flags(VALUES), "--block_size", str(BLOCK)]))
    assert config.to_dict() == FolioConfig(**{**SIZES["nano"], **VALUES}, max_position_embeddings=BLOCK).to_dict()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(st.sampled_from(sorted(VALUES))), preset=st.sampled_from(sorted(PRESETS)))
def test_any_fields_make_the_config_that_folioconfig_makes_and_survive_yaml(names, preset, tmp_path):
    chosen = {name: VALUES[name] for name in sorted(names)}
    model = ModelArguments(preset=preset, block_size=BLOCK, **chosen)
    expected = {**SIZES["nano"], **PRESETS[preset], **chosen, "max_position_embeddings": BLOCK}
    try:
        config = FolioConfig(**expected)
    except Exception:
        with pytest.raises(ValueError, match=r"\w+ .*") as error:
            starting_config(model)
        assert "\n" not in str(error.value)
        return
    lost = [name for name in chosen if getattr(config, name) != chosen[name]]
    if lost:  # FolioConfig drops it without a word
        with pytest.raises(ValueError, match=f"{lost[0]} is .*leave it out"):
            starting_config(model)
    else:
        assert starting_config(model).to_dict() == config.to_dict()
    saved = run_settings(CorpusArguments(), model, PretrainingArguments(output_dir=str(tmp_path)))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(saved))
    assert model_of(["--config", str(tmp_path / "run.yaml")]) == model


def test_the_weights_are_those_of_the_config(tmp_path):
    tokenizer = train_char_tokenizer(["abc"])
    model = ModelArguments(block_size=BLOCK, hidden_size=64, num_hidden_layers=1)
    torch.manual_seed(3)
    network = configured_model(model, tokenizer, PretrainingArguments(output_dir=str(tmp_path)))
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {**SIZES["nano"], "hidden_size": 64, "num_hidden_layers": 1, "max_position_embeddings": BLOCK}
    torch.manual_seed(3)
    expected = FolioForCausalLM(FolioConfig(vocab_size=len(tokenizer), **shape, **ids))
    assert type(network) is FolioForCausalLM
    for (name, p), (other, q) in zip(network.named_parameters(), expected.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--hidden_size", "100"], r"head_dim \(25\) is odd.*use head_dim=26"),
        (["--num_attention_heads", "3"], "not a multiple of num_attention_heads.*use a hidden_size of 129"),
        (["--hidden_size", "7"], r"hidden_size \(7\) is not a multiple"),
        (["--preset", "gpt2", "--rope_parameters", '{"rope_theta": 5000.0}'], "with preset gpt2 it is None: leave it"),
        (["--rope_parameters", "much"], "rope_parameters is 'much': give JSON"),
        (["--rope_parameters", '{"rope_type": "linear"}'], "Missing required keys in `rope_parameters`.*factor"),
        (["--layer_types", "full_attention"], "1 entries for num_hidden_layers=4"),
        (["--dropout", "1.5"], "dropout is 1.5: give a number from 0 to less than 1"),
        (["--hidden_act", "wave"], "hidden_act is 'wave': use one of"),
        (["--model_config", "a", "--init_from", "b"], "both set the model"),
        (["--init_from", "b", "--size", "nano"], "--init_from and --size both set the model"),
    ],
)
def test_fields_that_do_not_fit_give_a_one_line_error(argv, says):
    with pytest.raises(ValueError, match=says) as error:
        starting_config(model_of(argv))
    assert "\n" not in str(error.value)


def test_the_suggested_head_dim_fits():
    assert starting_config(model_of(["--hidden_size", "100", "--head_dim", "26"])).hidden_size == 100


def test_dropout_sets_all_and_a_single_one_wins():
    config = starting_config(ModelArguments(dropout=0.2))
    assert (config.attention_dropout, config.hidden_dropout) == (0.2, 0.2)
    config = starting_config(ModelArguments(dropout=0.2, attention_dropout=0.0))
    assert (config.attention_dropout, config.hidden_dropout) == (0.0, 0.2)


def test_defaults_are_not_changed_by_the_settings():
    assert starting_config(ModelArguments()).to_dict() == FolioConfig(max_position_embeddings=256).to_dict()
    assert isinstance(starting_config(ModelArguments(preset="gpt2")), PreTrainedConfig)
