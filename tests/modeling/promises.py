"""What users of a language model rely on, each as a function of a checkpoint that returns what came of it.

The module imports nothing of the package. `test_promises.py` runs it on Folio models, imported and as remote code, and
on stock models with the same weights, and compares the outcomes. As a script it runs lists on checkpoints:

    python promises.py OUTCOMES {quick|slow|quick,slow} CHECKPOINT...
"""

import copy
import gc
import io
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import NamedTuple

import peft
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch.utils.data import SequentialSampler
from transformers import DynamicCache, StaticCache, Trainer, TrainingArguments

V = 304
IDS = torch.randint(3, V, (2, 11), generator=torch.Generator().manual_seed(1))
PROMPT = IDS[:1]
PADDED = torch.cat([torch.zeros(1, 4, dtype=torch.long), PROMPT[:, 4:]], dim=1)
TEXT = "the cat is free, one two three"

QUICK, SLOW = {}, {}


class Refusal(NamedTuple):
    """The error that a promise ended in."""

    kind: str
    message: str


class Checkpoint:
    """A model in a folder, opened by the Auto classes; each copy is fresh."""

    def __init__(self, folder, trust_remote_code=False):
        self.folder, self.trust = str(folder), trust_remote_code
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        self._loaded = self.open()

    def open(self, folder=None, head="CausalLM", **options):
        auto = getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel")
        return auto.from_pretrained(folder or self.folder, trust_remote_code=self.trust, **options).eval()

    def model(self):
        return copy.deepcopy(self._loaded)


def promise(name, *args, where=QUICK, **kwargs):
    """Enter a function into the list under a name, with arguments."""

    def enter(function):
        where[name] = lambda checkpoint: function(checkpoint, *args, **kwargs)
        return function

    return enter


def logits(model, ids=IDS, **kwargs):
    if "input_ids" not in kwargs:
        kwargs["input_ids"] = ids
    with torch.no_grad():
        return model.eval()(**kwargs).logits


def outcome(function, checkpoint):
    """What a function returns, or the kind of error that it raises."""
    torch.manual_seed(0)
    try:
        return function(checkpoint)
    except Exception as error:
        return Refusal(type(error).__name__, str(error)[:300])


def outcomes(folder, trust_remote_code=False, which=QUICK) -> dict:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    gc.freeze()  # Trainer collects garbage at each start, which takes a second when all of torch is looked through
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint = Checkpoint(folder, trust_remote_code)
        found = {name: outcome(function, checkpoint) for name, function in which.items()}
    gc.unfreeze()
    return found


# Loading and saving


@promise("loading/fewer layers", num_hidden_layers=1)
@promise("loading/bfloat16", dtype="bfloat16")
@promise("loading/device map", device_map="cpu")
@promise("loading/eager", attn_implementation="eager")
@promise("loading/long name", max_position_embeddings=128)
@promise("loading/unknown field", no_such_field=1)
@promise("loading/unknown attention", attn_implementation="no_such_kernel")
def load(checkpoint, **options):
    model = checkpoint.open(**options)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="20KB")
        again = checkpoint.open(folder, dtype=model.dtype)
        return str(model.dtype), model.num_parameters(), logits(model), logits(again)


@promise("loading/more layers")
def more_layers(checkpoint):
    return [tuple(p.shape) for _, p in sorted(checkpoint.open(num_hidden_layers=3).named_parameters())]


@promise("loading/from config")
def from_config(checkpoint):
    config = transformers.AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=checkpoint.trust)
    model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=checkpoint.trust)
    return sorted(model.state_dict()), model.num_parameters()


@promise("loading/outputs", output_hidden_states=True)
@promise("loading/attentions", output_attentions=True, attn_implementation="eager")
def recorded(checkpoint, attn_implementation="sdpa", **options):
    model = checkpoint.model()
    model.set_attn_implementation(attn_implementation)
    with torch.no_grad():
        output = model(IDS, **options)
    return output.hidden_states, output.attentions, len(model(IDS, return_dict=False))


@promise("heads/base", "", {})
@promise("heads/classes", "SequenceClassification", {"labels": torch.tensor([0, 2])}, num_labels=3)
@promise("heads/number", "SequenceClassification", {"labels": torch.tensor([0.3, 2.0])}, num_labels=1)
@promise("heads/tags", "TokenClassification", {"labels": IDS % 3}, num_labels=3)
@promise(
    "heads/spans",
    "QuestionAnswering",
    {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 9])},
)
def head(checkpoint, head, labels, **options):
    torch.manual_seed(0)
    model = checkpoint.open(head=head, **options)
    torch.manual_seed(1)
    for name in ("score", "qa_outputs"):
        if layer := getattr(model, name, None):
            torch.nn.init.normal_(layer.weight)
    with torch.no_grad():
        found = [x for x in model(IDS, **labels).to_tuple() if torch.is_tensor(x)]
    # Llama's head for spans has its stack under another name, and starts with random weights.
    return [tuple(x.shape) for x in found] if head == "QuestionAnswering" else found


# Embeddings


@promise("embeddings/grow", V + 5)
@promise("embeddings/shrink", V - 5)
@promise("embeddings/padded", V + 5, pad_to_multiple_of=64)
def resize(checkpoint, size, **options):
    model = checkpoint.model()
    model.resize_token_embeddings(size, mean_resizing=False, **options)
    ids = IDS.clamp(max=V - 6)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    labels = ids.clone()
    labels[0, 3] = min(size, V) - 1
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = checkpoint.open(folder)
        loss = again(ids, labels=labels).loss.isfinite().item()
    return model.config.vocab_size, tied, logits(model, ids)[..., : V - 6], logits(again, ids)[..., : V - 6], loss


@promise("embeddings/input")
def embeds(checkpoint):
    model = checkpoint.model()
    embedded = model.get_input_embeddings()(IDS)
    return logits(model, None, inputs_embeds=embedded), generated(checkpoint, inputs=None, inputs_embeds=embedded)


# Caches and decoding


@promise("decoding/greedy")
@promise("decoding/no cache", use_cache=False)
@promise("decoding/static cache", cache_implementation="static", disable_compile=True)
@promise("decoding/offloaded cache", cache_implementation="offloaded")
@promise("decoding/quantized cache", cache_implementation="quantized")
@promise("decoding/unknown cache", cache_implementation="no_such_cache")
@promise("decoding/cache config", cache_implementation="dynamic", cache_config={"offloading": True})
@promise("decoding/sample", do_sample=True, top_k=0)
@promise("decoding/top k", do_sample=True, top_k=5, temperature=0.7)
@promise("decoding/top p", do_sample=True, top_p=0.8)
@promise("decoding/min p", do_sample=True, min_p=0.1)
@promise("decoding/typical", do_sample=True, typical_p=0.5)
@promise("decoding/epsilon", do_sample=True, epsilon_cutoff=0.01)
@promise("decoding/eta", do_sample=True, eta_cutoff=0.01)
@promise("decoding/several", do_sample=True, num_return_sequences=3)
@promise("decoding/beams", num_beams=3, num_return_sequences=2)
@promise("decoding/beam sample", num_beams=3, do_sample=True)
@promise("decoding/groups of beams", num_beams=4, num_beam_groups=2, diversity_penalty=0.5)
@promise("decoding/contrastive", penalty_alpha=0.6, top_k=4)
@promise("decoding/dola", dola_layers="low")
@promise("decoding/prompt lookup", prompt_lookup_num_tokens=3)
@promise("decoding/early exit", assistant_early_exit=1)
@promise("decoding/chunked prefill", prefill_chunk_size=4)
@promise("decoding/repetition", repetition_penalty=1.5)
@promise("decoding/n-grams", no_repeat_ngram_size=2)
@promise("decoding/bad words", bad_words_ids=[[5], [6, 7]])
@promise("decoding/bias", sequence_bias=[[[9], 5.0]])
@promise("decoding/suppress", suppress_tokens=[3, 4, 5], begin_suppress_tokens=[7])
@promise("decoding/forced end", forced_eos_token_id=2)
@promise("decoding/length", exponential_decay_length_penalty=(2, 1.5))
@promise("decoding/guidance", guidance_scale=1.5)
@promise("decoding/watermark", watermarking_config=transformers.WatermarkingConfig(bias=2.5))
@promise("decoding/stop strings", stop_strings=["e", "th"], tokenizer=True)
@promise("decoding/stop strings alone", stop_strings=["e"])
@promise("decoding/left padding", inputs=PADDED, attention_mask=(PADDED != 0).long())
@promise("decoding/empty prompt", inputs=None)
@promise("decoding/no new token", max_new_tokens=0)
@promise("decoding/unknown argument", no_such_argument=1)
def generated(checkpoint, tokenizer=None, model=None, **options):
    model = model or checkpoint.model()
    torch.manual_seed(0)
    options = {"inputs": PROMPT, "max_new_tokens": 9, "do_sample": False, **options}
    if tokenizer:
        options["tokenizer"] = checkpoint.tokenizer
    output = model.generate(**options)
    return output, model.config.num_hidden_layers


@promise("decoding/everything returned")
def everything(checkpoint):
    model = checkpoint.model()
    model.set_attn_implementation("eager")
    asked = dict.fromkeys(("output_scores", "output_logits", "output_hidden_states", "output_attentions"), True)
    output = model.generate(PROMPT, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, **asked)
    scores = model.compute_transition_scores(output.sequences, output.scores)
    cache = getattr(output, "past_key_values", None)
    return output.logits, output.hidden_states, output.attentions, scores, cache.get_seq_length()


@promise("decoding/assistant", 0)
@promise("decoding/poor assistant", 1)
def assisted(checkpoint, seed):
    assistant = checkpoint.model()
    if seed:
        torch.manual_seed(seed)
        torch.nn.init.normal_(assistant.get_input_embeddings().weight)
    return generated(checkpoint, assistant_model=assistant)


@promise("decoding/streamer")
def streamed(checkpoint):
    text = io.StringIO()
    streamer = transformers.TextStreamer(checkpoint.tokenizer)
    streamer.on_finalized_text = lambda words, stream_end=False: text.write(words)
    generated(checkpoint, streamer=streamer)
    return text.getvalue()


@promise("caches/step by step", DynamicCache)
@promise("caches/static", StaticCache)
def step_by_step(checkpoint, kind):
    model = checkpoint.model()
    cache = kind(config=model.config, max_cache_len=16) if kind is StaticCache else kind(config=model.config)
    steps = [logits(model, ids, past_key_values=cache, use_cache=True) for ids in (IDS[:, :5], IDS[:, 5:6], IDS[:, 6:])]
    return steps, int(cache.get_seq_length())


@promise("caches/cut and gone on from")
def cropped(checkpoint):
    model, cache = checkpoint.model(), DynamicCache()
    logits(model, past_key_values=cache, use_cache=True)
    cache.crop(-5)
    again = logits(model, IDS[:, 6:], past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(2)
    return again, cache.get_seq_length()


@promise("caches/a prefix shared by prompts")
def prefix(checkpoint):
    model, cache = checkpoint.model(), DynamicCache()
    logits(model, PROMPT[:, :6], past_key_values=cache, use_cache=True)
    return generated(checkpoint, model=model, past_key_values=copy.deepcopy(cache))


@promise("caches/mask of four dimensions")
def mask4d(checkpoint):
    mask = torch.ones(11, 11).tril().bool()[None, None].expand(2, 1, -1, -1)
    return logits(checkpoint.model(), attention_mask=mask)


@promise("caches/packed rows")
def packed(checkpoint):
    positions = torch.tensor([[*range(5), *range(6)]]).expand(2, -1)
    return logits(checkpoint.model(), position_ids=positions, use_cache=False)


@promise("caches/logits to keep", 1)
@promise("caches/logits to keep by index", torch.tensor([2, 5]))
def kept(checkpoint, positions):
    return logits(checkpoint.model(), logits_to_keep=positions)


# Pipelines


@promise("pipelines/text generation", "text-generation", TEXT, max_new_tokens=5, do_sample=False)
@promise("pipelines/batch", "text-generation", [TEXT, "one"], max_new_tokens=5, do_sample=False, batch_size=2)
@promise("pipelines/new text alone", "text-generation", TEXT, max_new_tokens=5, do_sample=False, return_full_text=False)
@promise("pipelines/tokens", "text-generation", TEXT, max_new_tokens=5, do_sample=False, return_tensors=True)
@promise("pipelines/features", "feature-extraction", TEXT, head="")
@promise("pipelines/classes", "text-classification", TEXT, head="SequenceClassification", top_k=None)
@promise("pipelines/tags", "token-classification", TEXT, head="TokenClassification")
@promise("pipelines/zero shot", "zero-shot-classification", TEXT, head="SequenceClassification", candidate_labels=["a"])
@promise("pipelines/answers", "question-answering", {"question": "who?", "context": TEXT}, head="QuestionAnswering")
@promise("pipelines/masked", "fill-mask", TEXT)
def pipe(checkpoint, task, text, head="CausalLM", **options):
    model = checkpoint.open(head=head)
    torch.manual_seed(0)
    for name in ("score", "qa_outputs"):
        if layer := getattr(model, name, None):
            torch.nn.init.normal_(layer.weight)
    return transformers.pipeline(task, model=model, tokenizer=checkpoint.tokenizer, device="cpu")(text, **options)


# PEFT: every tuner with its own choice of what to adapt

TUNERS = {
    "ADALORA": {"total_step": 10, "init_r": 2, "target_r": 1},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "CARTRIDGE": {"num_virtual_tokens": 3},
    "CPT": {"cpt_token_ids": [3, 4, 5], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3]},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 10},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "MISS": {"r": 8},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 3, "num_tasks": 2},
    "OFT": {"oft_block_size": 8},
    "POLY": {"r": 4, "n_tasks": 2, "n_skills": 2},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "PSOFT": {"r": 4},
    "P_TUNING": {"num_virtual_tokens": 3, "encoder_hidden_size": 16},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [3, 4, 5]},
    "VBLORA": {"vector_length": 8, "num_vectors": 16, "topk": 2},
    "WAVEFT": {"n_frequency": 10},
}
VARIANTS = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "all linear": {"target_modules": "all-linear", "init_lora_weights": True},
    "one layer": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens"]},
    "tokens": {"trainable_token_indices": [3, 4]},
    "parameters": {"target_modules": [], "target_parameters": ["mlp.down_proj.weight"]},
    "replication": {"layer_replication": [[0, 2], [1, 2]]},
    "bias": {"bias": "all"},
    "a module that is not there": {"target_modules": ["no_such_proj"]},
    "activated": {"alora_invocation_tokens": [5, 6]},
}
TASKS = {"task_ids": torch.tensor([0, 1])}


def adapted(checkpoint, config):
    """A model with an adapter, the further inputs that it takes, and its loss before one step of training."""
    torch.manual_seed(0)
    model = peft.get_peft_model(checkpoint.model(), config)
    inputs = TASKS if config.peft_type in ("POLY", "MULTITASK_PROMPT_TUNING") else {}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss = model(input_ids=IDS, labels=IDS, **inputs).loss
    loss.backward()
    optimizer.step()
    return model.eval(), inputs, loss.detach()


def trained(checkpoint, config):
    """The loss, and the gradients' norm and shapes."""
    model, _, loss = adapted(checkpoint, config)
    if config.peft_type == "SHADOW":  # makes layers of its own, at random, and ours are made in another order
        loss = loss.isfinite()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return loss, shapes, sum(g.square().sum() for g in grads).sqrt() if loss.dtype != torch.bool else None


def follows_logits(model, inputs) -> bool:
    tokens = PROMPT
    for _ in range(4):
        step = logits(model, input_ids=tokens, attention_mask=torch.ones_like(tokens), **inputs)
        tokens = torch.cat([tokens, step[:, -1:].argmax(-1)], dim=1)
    return torch.equal(model.generate(input_ids=PROMPT, max_new_tokens=4, do_sample=False, **inputs), tokens)


def used(checkpoint, config):
    """The logits of a trained adapter, when loaded again and when merged, and whether `generate` follows them."""
    model, inputs, _ = adapted(checkpoint, config)
    found = {"trained": outcome(lambda _: logits(model, input_ids=IDS, **inputs), None)}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = outcome(lambda _: peft.PeftModel.from_pretrained(checkpoint.model(), folder), None)
    found["loaded"] = again
    if not isinstance(again, Refusal):
        found["loaded"] = outcome(lambda _: logits(again, input_ids=IDS, **inputs), None)
    inputs = {name: value[:1] for name, value in inputs.items()}
    found["generates what the logits say"] = outcome(lambda _: follows_logits(model, inputs), None)
    found["merged"] = outcome(lambda _: logits(model.merge_and_unload()), None)
    return found


@promise("tuners/xlora")
def xlora(checkpoint):
    with tempfile.TemporaryDirectory() as folder:
        config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
        peft.get_peft_model(checkpoint.model(), config).save_pretrained(folder)
        config = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, adapters={"0": folder})
        model = checkpoint.model()
        model.config.use_cache = False
        return logits(peft.get_peft_model(model, config)).shape


CONFIGS = {
    **{
        kind.value.lower(): (config_class, TUNERS.get(kind.value, {}))
        for kind, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if kind.value != "XLORA"  # made of other adapters, below
    },
    **{f"lora, {name}": (peft.LoraConfig, {"r": 4, **options}) for name, options in VARIANTS.items()},
}
for name, (config_class, options) in CONFIGS.items():

    @promise(f"tuners/{name}", trained, config_class, options)
    @promise(f"tuners/{name}, used", used, config_class, options, where=SLOW)
    def tuner(checkpoint, life, config_class, options):
        return life(checkpoint, config_class(task_type="CAUSAL_LM", **options))


@promise("tuners/several adapters")
def several(checkpoint):
    model = peft.get_peft_model(checkpoint.model(), peft.LoraConfig(init_lora_weights=False))
    model.add_adapter("second", peft.LoraConfig(init_lora_weights=False))
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "both", combination_type="linear")
    found = [logits(model)]
    for name in ("second", "both"):
        model.set_adapter(name)
        found.append(logits(model))
    with model.disable_adapter():
        return [*found, logits(model)]


@promise("tuners/a classifier's head")
def classifier(checkpoint):
    model = checkpoint.open(head="SequenceClassification", num_labels=3)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS"))
    return sorted(name for name, p in model.named_parameters() if p.requires_grad)


# Trainer: what touches the loss or the optimizer


def rows(count=8):
    generator = torch.Generator().manual_seed(3)
    made = [torch.randint(3, V, (8 + i % 3 * 0,), generator=generator) for i in range(count)]
    return [{"input_ids": ids, "labels": ids.masked_fill(ids % 4 == 0, -100)} for ids in made]


TRAINER = {
    "plain": {},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "accumulation, smoothing": {
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
        "label_smoothing_factor": 0.1,
    },
    "clipping": {"max_grad_norm": 0.01},
    "weight decay": {"weight_decay": 0.5},
    "checkpointing": {"activation_checkpointing": True},
    "reentrant": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
    "noise": {"neftune_noise_alpha": 5.0},
    "bf16": {"bf16": True},
    "bf16 weights": {"bf16_full_eval": True},
    "grouped": {"train_sampling_strategy": "group_by_length"},
    "no averaging": {"average_tokens_across_devices": False},
    "tokens seen": {"include_num_input_tokens_seen": "all"},
    "batch size": {"auto_find_batch_size": True},
    "warmup": {"warmup_steps": 2, "lr_scheduler_type": "cosine"},
    "layerwise": {"optim": "lomo"},
    "liger": {"use_liger_kernel": True},
    "galore": {"optim": "galore_adamw", "optim_target_modules": "all-linear"},
    **{f"optim {name}": {"optim": name} for name in ("sgd", "adafactor", "rmsprop", "adagrad", "adamw_torch_fused")},
    **{f"optim {name}": {"optim": name} for name in ("adamw_8bit", "lion_32bit", "schedule_free_adamw")},
}  # fmt: skip


def train(checkpoint, options, wrap=lambda model: model, **more):
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "seed": 1,
            "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "weight_decay": 0.0,
            "eval_strategy": "steps", "eval_steps": 3, **options,
        }  # fmt: skip
        model, data = wrap(checkpoint.model()), rows(12)
        trainer = Trainer(
            model, TrainingArguments(folder, **arguments), train_dataset=data, eval_dataset=data[:4], **more
        )
        trainer._get_train_sampler = lambda *_: SequentialSampler(data)
        trainer.log = types.MethodType(quiet_log, trainer)
        trainer.train()
        history = trainer.state.log_history
        predicted = trainer.predict(data[:4])
        shapes = [tuple(x.shape) for x in (predicted.predictions, predicted.label_ids) if x is not None]
        keys = ("loss", "grad_norm", "eval_loss", "num_input_tokens_seen")
        return [{k: float(v) for k, v in entry.items() if k in keys} for entry in history], shapes


def quiet_log(self, logs, start_time=None):
    self.state.log_history.append({**logs, "step": self.state.global_step})


for name, options in TRAINER.items():
    promise(f"trainer/{name}", options)(train)

LORA = peft.LoraConfig(task_type="CAUSAL_LM")
promise("trainer/smoothing of an adapter", {"label_smoothing_factor": 0.1}, lambda m: peft.get_peft_model(m, LORA))(
    train
)


def total_loss(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


promise("trainer/a loss of one's own", {}, compute_loss_func=total_loss)(train)
promise("trainer/compiled", {"torch_compile": True, "torch_compile_backend": "aot_eager"}, where=SLOW)(train)


@promise("trainer/what decays")
def decays(checkpoint):
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(checkpoint.model(), TrainingArguments(folder, report_to=[], use_cpu=True))
        return sorted(trainer.get_decay_parameter_names(trainer.model)), trainer.model_accepts_loss_kwargs


# Quantizers and exporters


@promise("quantizers/dynamic")
def dynamic(checkpoint):
    model = torch.ao.quantization.quantize_dynamic(checkpoint.model(), {torch.nn.Linear}, torch.qint8)
    return (logits(model) - logits(checkpoint.model())).abs().max() < 1.0


for name, options in {
    "BitsAndBytesConfig": {"load_in_4bit": True}, "QuantoConfig": {"weights": "int8"}, "HqqConfig": {},
    "FineGrainedFP8Config": {}, "EetqConfig": {}, "GPTQConfig": {"bits": 4}, "AwqConfig": {"bits": 4},
}.items():  # fmt: skip

    @promise(f"quantizers/{name}", name, options)
    def quantized(checkpoint, name, options):
        config = getattr(transformers, name)(**options)
        return logits(checkpoint.open(quantization_config=config))


@promise("exporters/trace")
def trace(checkpoint):
    model = checkpoint.open(attn_implementation="eager")
    model.requires_grad_(False).config.use_cache = False
    return torch.jit.trace(lambda ids: model(ids, return_dict=False)[0], PROMPT)(PROMPT)


@promise("exporters/export", where=SLOW)
def export(checkpoint):
    inputs = {"input_ids": IDS, "use_cache": False}
    with torch.no_grad():
        return torch.export.export(checkpoint.model(), (), inputs, strict=False).module()(**inputs).logits


@promise("exporters/executorch", where=SLOW)
def executorch(checkpoint):
    from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

    model = checkpoint.model()
    model.generation_config = transformers.GenerationConfig(
        use_cache=True, cache_implementation="static", cache_config={"batch_size": 1, "max_cache_len": 16}
    )
    exportable = TorchExportableModuleForDecoderOnlyLM(model, batch_size=1, max_cache_len=16)
    program = exportable.export(input_ids=PROMPT[:, :1], cache_position=torch.tensor([0]))
    return program.module()(input_ids=PROMPT[:, :1], cache_position=torch.tensor([0]))


@promise("exporters/compile", where=SLOW)
def compiled(checkpoint):
    return logits(torch.compile(checkpoint.model(), fullgraph=True, backend="aot_eager"))


@promise("exporters/onnx", where=SLOW)
def onnx(checkpoint):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        inputs = {"input_ids": IDS, "use_cache": False}
        torch.onnx.export(checkpoint.model(), (), file, kwargs=inputs, dynamo=True, verbose=False)
        return file.exists()


# The rest of these kinds takes long, and seldom tells more.
QUICK_ONES = {
    "decoding": {
        "greedy", "no cache", "static cache", "sample", "beams", "prompt lookup", "early exit", "poor assistant",
        "left padding", "stop strings", "unknown argument", "everything returned",
    },
    "trainer": {"plain", "label smoothing", "accumulation, smoothing", "smoothing of an adapter", "what decays"},
    "tuners": {
        *(kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING),
        *("lora, dora", "lora, head", "lora, tokens", "lora, replication"),
    },
}  # fmt: skip
for name in list(QUICK):
    kind, _, rest = name.partition("/")
    if rest not in QUICK_ONES.get(kind, {rest}):
        SLOW[name] = QUICK.pop(name)
LISTS = {"quick": QUICK, "slow": SLOW}


if __name__ == "__main__":
    sys.modules["foliogpt"] = None  # every import of the package fails
    sys.modules["promises"] = sys.modules["__main__"]  # so that the outcomes can be read elsewhere
    Refusal.__module__ = "promises"
    file, lists, *checkpoints = sys.argv[1:]
    pairs = [(which, checkpoint) for which in lists.split(",") for checkpoint in checkpoints]
    torch.save({(which, each): outcomes(each, True, LISTS[which]) for which, each in pairs}, file)
