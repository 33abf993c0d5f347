"""What a CUDA graph computes is what the model computes. A tape of operations stands for the graph on a CPU."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
import transformers
from tapes import record
from torch._subclasses import FakeTensorMode

from foliogpt.checkpoints.self_check import relative_difference
from foliogpt.modeling import FolioForCausalLM
from foliogpt.modeling.forward_arguments import CACHE
from foliogpt.serving import batching, cuda_graphs
from foliogpt.serving.batching import Batch, Row
from foliogpt.serving.choice import Choice
from foliogpt.serving.cuda_graphs import NoSynchronization, Recorder, StaticStep, StaticSteps, states_of
from foliogpt.serving.generator import generation_config

VOCAB = 99
SHAPE = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip
OURS = {
    "folio": {}, "gpt2": {"preset": "gpt2"},
    "sliding": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip
THEIRS = {
    "llama": transformers.LlamaConfig(**SHAPE), "qwen3": transformers.Qwen3Config(**SHAPE, head_dim=8),
    "mistral": transformers.MistralConfig(**SHAPE, sliding_window=6),
    "stock gpt2": transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1, initializer_range=0.3
    ),
}  # fmt: skip


@pytest.fixture
def make(tiny, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MIN_TOKENS", 16)

    def build(name: str = "folio"):
        torch.manual_seed(0)
        if name in OURS:
            model = FolioForCausalLM(tiny(**OURS[name], initializer_range=0.3, max_position_embeddings=128))
        else:
            model = transformers.AutoModelForCausalLM.from_config(THEIRS[name])
        return model.eval()

    return build


class Rows:
    """A batch whose rows join and leave when told, and get the tokens that they are given."""

    def __init__(self, model, captures: bool, recorder=record):
        self.model, self.batch = model, Batch(model)
        if captures:
            self.batch.graphs = StaticSteps(self.batch._logits, self.batch._eager, 2**30, recorder)

    @torch.no_grad()
    def join(self, ids: list[int]) -> None:
        row = Row(Choice(ids[:-1], generation_config(self.model, 1)), SimpleNamespace(), self.model)
        row.cache = transformers.DynamicCache()
        self.batch._prefill(row, len(ids))
        self.batch._join(row)
        row.ids = list(ids)

    def leave(self, place: int) -> None:
        self.batch.rows[place].choice.end()
        self.batch._drop(self.batch.rows)

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        return self.batch._forward()

    def add(self, tokens: list[int]) -> None:
        for row, token in zip(self.batch.rows, tokens, strict=True):
            row.ids.append(token)


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", [*OURS, *THEIRS])
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_that_join_and_leave_at_random_have_the_logits_of_the_eager_road(make, name, seed):
    """A tape runs no Python again: a number that the model read while it was recorded would stay what it was."""
    model, random = make(name), numbers(seed)
    eager, captured = Rows(model, False), Rows(model, True)
    draw = lambda high: int(torch.randint(high, (), generator=random))  # noqa: E731
    for _ in range(50):
        rows = len(eager.batch.rows)
        if rows == 0 or (rows < 6 and draw(6) == 0):
            ids = torch.randint(VOCAB, (2 + draw(25),), generator=random).tolist()
            eager.join(ids)
            captured.join(ids)
        elif draw(8) == 0:
            place = draw(rows)
            eager.leave(place)
            captured.leave(place)
            if rows == 1:
                continue
        expected, found = eager.step(), captured.step().clone()
        assert isinstance(captured.batch.cache, StaticStep)
        assert max(map(relative_difference, found, expected)) < 1e-4
        eager.add(expected.argmax(-1).tolist())
        captured.add(expected.argmax(-1).tolist())
    assert captured.batch.graphs.fault is None
    assert len(captured.batch.graphs.steps) > 3, "the rows did not change their size"


def test_rows_that_are_not_in_use_give_numbers_too(make):
    """A row that sees no position at all would be NaN, which some kernels spread."""
    rows = Rows(make(), True)
    for ids in ([1, 2, 3], [4, 5], [6, 7, 8]):
        rows.join(ids)
    rows.step()
    step = rows.batch.cache
    with torch.no_grad():
        whole = step.replay()
    assert whole.shape == (4, VOCAB)
    assert whole.isfinite().all()


def test_a_text_of_nan_leaves_nothing_in_the_buffers(make):
    rows = Rows(make(), True)
    rows.join([1, 2, 3, 4, 5, 6, 7])
    rows.step()
    for pair in states_of(rows.batch.cache):
        for state in pair:
            state.fill_(torch.nan)
    rows.leave(0)
    rows.join([1, 2])
    assert rows.step().isfinite().all()


def test_a_step_keeps_its_addresses_whatever_rows_it_takes(make):
    rows = Rows(make(), True)
    rows.join([1, 2, 3])
    rows.step()
    step = rows.batch.cache
    tensors = [step.tokens, *(layer.cumulative_length for layer in step.cache.layers)]
    tensors += [state for pair in states_of(step.cache) for state in pair]
    addresses = [tensor.data_ptr() for tensor in tensors]
    rows.add([5])
    rows.step()
    rows.leave(0)
    rows.join([4, 5, 6, 7])
    rows.step()
    assert rows.batch.cache is step
    again = [step.tokens, *(layer.cumulative_length for layer in step.cache.layers)]
    again += [state for pair in states_of(step.cache) for state in pair]
    assert [tensor.data_ptr() for tensor in again] == addresses


def test_buffers_stay_within_their_limit_and_the_longest_unused_go_first(make):
    rows = Rows(make(), True)
    width = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, bytes
    graphs = rows.batch.graphs
    graphs.max_bytes = 6 * 16 * width
    sizes = []
    for ids in ([1, 2], [3, 4], [5, 6]):
        rows.join(ids)
        rows.step()
        sizes.append(list(graphs.steps))
        assert graphs.nbytes == sum(rows * tokens * width for rows, tokens in graphs.steps) <= graphs.max_bytes
    assert sizes == [[(1, 16)], [(1, 16), (2, 16)], [(2, 16), (4, 16)]]
    for ids in ([7] * 3, [8] * 3, [9] * 3):
        rows.join(ids)
    assert rows.step().shape == (6, VOCAB)
    assert not graphs.steps, "buffers that are too small for the rows take memory from them"
    assert graphs.fault is None


def test_the_bytes_of_buffers_count_when_a_text_asks_to_join(make):
    rows = Rows(make(), True)
    rows.join([1, 2, 3])
    rows.batch.max_bytes = 2 * 30 * 2 * 2 * 2 * 8 * 4
    assert rows.batch._fits(2, 30)
    rows.step()
    assert not rows.batch._fits(2, 30)
    assert rows.batch._fits(2, 20)


def reads_a_number(self, args, kwargs):
    if kwargs["input_ids"].shape[1] == 1 and kwargs["input_ids"].sum() > 10**9:
        raise AssertionError


def wrong(run):
    return lambda: run() + torch.arange(VOCAB)


def fails(run):
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


FAULTS = {
    "a number is read": (reads_a_number, record, "cannot be captured: aten._local_scalar_dense.default waits"),
    "a capture fails": (None, fails, "cannot be captured: operation not permitted when stream"),
    "a replay is wrong": (None, wrong, "gives other logits"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_captured_is_computed_eagerly_and_is_told_once(make, name, caplog):
    hook, recorder, told = FAULTS[name]
    model = make()
    eager, captured = Rows(copy.deepcopy(model), False), Rows(model, True, recorder)
    if hook:
        model.register_forward_pre_hook(hook, with_kwargs=True)
    with caplog.at_level(logging.WARNING):
        for ids in ([1, 2, 3], [4, 5]):
            eager.join(ids)
            captured.join(ids)
            for _ in range(3):
                expected, found = eager.step(), captured.step()
                torch.testing.assert_close(found, expected)
                eager.add(expected.argmax(-1).tolist())
                captured.add(expected.argmax(-1).tolist())
    (line,) = [record.getMessage() for record in caplog.records]
    assert told in line
    assert not captured.batch.graphs.steps


@pytest.mark.parametrize(
    "synchronizes",
    [
        lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: x[x > 0],
        lambda x: x.nonzero(), lambda x: x.masked_select(x > 0), lambda x: int(x[0]), lambda x: x.to("meta"),
        lambda x: torch.empty(3, device="meta").copy_(x),
    ],
)  # fmt: skip
def test_operations_that_wait_for_the_gpu_are_rejected_before_they_run(synchronizes):
    x = torch.ones(3)
    with NoSynchronization(), pytest.raises(RuntimeError, match="waits for the GPU"):
        synchronizes(x)
    with NoSynchronization():
        y = x[torch.tensor([0, 2])].to(torch.bfloat16).to(x.device) + torch.where(x[:2] > 0, 1.0, 0.0)
    assert y.tolist() == [2, 2]


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch has no CUDA, not even for fake tensors")
@pytest.mark.parametrize("name", [*OURS, *THEIRS])
def test_a_step_on_cuda_copies_nothing_from_or_to_the_cpu(make, name):
    """Fake tensors say they are on a GPU, and know no numbers."""
    model = make(name)
    with FakeTensorMode(), torch.no_grad():
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for key, tensor in tensors.items():
                    if tensor is not None:
                        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                        like = isinstance(tensor, torch.nn.Parameter)
                        tensors[key] = torch.nn.Parameter(fake, requires_grad=False) if like else fake
        batch, cache = SimpleNamespace(model=model, last_alone={}, names=lambda _: {}), transformers.DynamicCache()
        model(input_ids=torch.empty(3, 5, dtype=torch.long, device="cuda"), use_cache=True, **{CACHE: cache})

        def check(run):
            run()
            with NoSynchronization():
                run()
            return run

        step = StaticStep(lambda *given: Batch._logits(batch, *given), states_of(cache), 4, 32, check)
        assert step.replay().device.type == "cuda"


class FakeCuda:
    """torch.cuda, of which it notes the calls. `invalid` is the error at the end of a capture."""

    def __init__(self, monkeypatch, invalid: Exception | None = None):
        self.calls, self.invalid, fake = [], invalid, self
        self.current = self.default = SimpleNamespace(wait_stream=lambda other: self.calls.append("main waits"))

        class Stream:
            device = torch.device("cuda:0")

            def __init__(self, device):
                pass

            def wait_stream(self, other):
                fake.calls.append("side waits")

        class Switch:
            def __init__(self, stream):
                self.stream = stream

            def __enter__(self):
                self.before, fake.current = fake.current, self.stream

            def __exit__(self, *error):
                fake.current = self.before

        class Capture:
            def __init__(self, graph, pool, stream, capture_error_mode):
                assert (pool, capture_error_mode, fake.current) == ("pool", "thread_local", stream)

            def __enter__(self):
                fake.calls.append("begin")

            def __exit__(self, *error):
                fake.calls.append("end")
                if fake.invalid:
                    raise fake.invalid

        graph = type("Graph", (), {"replay": lambda self: fake.calls.append("replay")})
        for name, value in {
            "Stream": Stream, "stream": Switch, "graph": Capture, "CUDAGraph": graph,
            "graph_pool_handle": lambda: "pool", "current_stream": lambda device=None: fake.current,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)
        ended = lambda device, pool: self.calls.append(f"pool of {device} ended")  # noqa: E731
        monkeypatch.setattr(torch.cuda.memory, "_cuda_endAllocateToPool", ended, raising=False)
        monkeypatch.setattr(Recorder, "failed", [])


def test_a_function_runs_twice_before_it_is_captured_on_a_stream_of_its_own(monkeypatch):
    cuda = FakeCuda(monkeypatch)

    def run():
        cuda.calls.append("run")
        assert cuda.current is not cuda.default
        return torch.zeros(1)

    replay = Recorder(torch.device("cuda:0"))(run)
    assert cuda.current is cuda.default
    assert replay() is replay()
    assert cuda.calls == ["side waits", "run", "run", "begin", "run", "end", "main waits", "replay", "replay"]


def test_an_invalid_capture_is_ended_so_that_the_device_stays_usable(monkeypatch):
    """torch raises at the end of such a capture before it tells its allocator, and leaves the stream as it is."""
    cuda = FakeCuda(monkeypatch, RuntimeError("capture was invalidated"))
    recorder = Recorder(torch.device("cuda:0"))
    with pytest.raises(RuntimeError, match="invalidated"):
        recorder(lambda: torch.zeros(1))
    assert cuda.calls[-1] == "pool of 0 ended"
    assert cuda.current is cuda.default
    assert len(Recorder.failed) == 1, "the allocators point to the graph"


def test_torch_has_what_ends_a_capture():
    assert callable(torch.cuda.memory._cuda_endAllocateToPool)


@pytest.mark.parametrize(
    ("devices", "adapters", "captures"),
    [(["cuda:0"] * 2, {}, True), (["cuda:0", "cuda:1"], {}, False), (["cuda:0", "cpu"], {}, False),
     (["cuda:0"] * 2, {"default": 1}, False)],
)  # fmt: skip
def test_models_on_several_devices_and_adapters_are_not_captured(devices, adapters, captures, monkeypatch):
    """A graph would miss what runs on another device, and stay with the adapter that was active."""
    FakeCuda(monkeypatch)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**31))
    parameters = [SimpleNamespace(device=torch.device(device)) for device in devices]
    model = SimpleNamespace(
        device=torch.device("cuda:0"), peft_config=adapters, parameters=lambda: parameters,
        _supports_logits_to_keep=lambda: True,
    )  # fmt: skip
    batch = Batch(model)
    assert (batch.graphs is not None) == captures
    assert batch.max_bytes == 2**29
    assert not captures or batch.graphs.max_bytes == 2**28


def test_a_cpu_captures_nothing(make):
    assert batching.Batch(make()).graphs is None
