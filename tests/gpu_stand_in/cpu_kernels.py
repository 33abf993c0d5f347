"""torch's operators for CUDA, computed by a CPU.

`runtime.c` makes torch believe in a GPU whose memory is the host's, so the CPU's operators can work on the same memory.
All that torch does around a kernel is real: it checks devices and dtypes, casts, allocates, waits and captures. A CUDA
graph is a tape of what was called during its capture. The flash kernel for documents is written out. Compilers stop
before they write code (`aot_eager`).
"""

import warnings

import torch
from torch.utils._pytree import tree_leaves, tree_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
# What allocates or makes views, which torch itself does on any device.
OWN = {
    "_copy_from", "_copy_from_and_resize", "_efficientzerotensor", "_local_scalar_dense", "_pin_memory",
    "_reshape_alias", "as_strided", "empty", "empty_strided", "is_pinned", "is_set_to", "pin_memory", "record_stream",
    "resize_", "set_", "unfold", "view", "view_as_complex", "view_as_real",
}  # fmt: skip
# What takes tensors of the CPU beside those of a GPU; others take numbers only.
MIXED = {"_index_put_impl_", "copy_", "index", "index_put", "index_put_"}
library: torch.library.Library  # kept, as its kernels end with it


def is_cuda(x) -> bool:
    return isinstance(x, torch.Tensor) and x.device.type == "cuda"


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """View the memory of a CUDA tensor as one of the CPU."""
    storage = tensor.untyped_storage()
    memory = torch.UntypedStorage(0)
    if storage.nbytes():
        memory = torch._C._construct_storage_from_data_pointer(storage.data_ptr(), CPU, storage.nbytes())
    with torch.no_grad():
        view = torch.empty(0, dtype=tensor.dtype, device=CPU)
        view.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())
    view = view.conj() if tensor.is_conj() else view
    return torch._neg_view(view) if tensor.is_neg() else view


def kernel(op, compute=None):
    """Make the CUDA kernel of an operator, from a function of CPU tensors: by default, the operator."""
    arguments = op._schema.arguments

    def by_cpu(*args, **kwargs):
        with torch._C._AutoDispatchBelowAutograd(), torch.autocast("cpu", enabled=False):
            return op(*args, **kwargs)

    compute = compute or by_cpu

    def run(*args, **kwargs):
        views = {}  # by the id of a CUDA tensor: its view and itself

        def to_cpu(x):
            if is_cuda(x):
                return views.setdefault(id(x), (on_cpu(x), x))[0]
            if isinstance(x, torch.device):
                return CPU
            return None if isinstance(x, torch.Generator) and x.device.type == "cuda" else x

        def to_cuda(x):
            if not isinstance(x, torch.Tensor):
                return x
            found = owners.get(id(x))
            if found is None:
                found = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA)
            elif found.shape != x.shape:  # an `out` of another size
                found.resize_(x.shape)
            else:
                return found
            on_cpu(found).copy_(x)
            return found

        # A number beside a tensor has become a number of Python on its way here.
        typed = zip(args, arguments, strict=False)  # the rest are keywords, or have their defaults
        args = [torch.tensor(x) if is_number(x) and "Tensor" in str(a.type) else x for x, a in typed]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if op._overloadpacket.__name__ not in MIXED and any(x.dim() and not is_cuda(x) for x in given):
            raise RuntimeError(f"Expected all tensors to be on the same device, but {op} got one on the CPU.")
        args, kwargs = tree_map(to_cpu, (args, kwargs))
        try:
            result = compute(*args, **kwargs)
        except RuntimeError as error:
            if "DefaultCPUAllocator" in str(error):
                raise torch.OutOfMemoryError("CUDA out of memory.") from None
            raise
        owners = {id(view): tensor for view, tensor in views.values()}
        out = tree_map(to_cuda, result)
        if Graph.tape is not None:
            Graph.tape.append((compute, args, kwargs, out, views))
        return out

    return run


def is_number(x) -> bool:
    return isinstance(x, (bool, int, float))


class Graph(torch.cuda.CUDAGraph):
    """A CUDA graph: a tape, which is computed again into the same memory."""

    tape: list | None = None  # of the capture under way

    def capture_begin(self, *args, **kwargs):
        super().capture_begin(*args, **kwargs)
        Graph.tape = []

    def capture_end(self):
        self.calls, Graph.tape = Graph.tape, None
        super().capture_end()

    def replay(self):
        for compute, args, kwargs, out, _ in self.calls or []:
            result = compute(*args, **kwargs)
            for new, old in zip(tree_leaves(result), tree_leaves(out), strict=True):
                if is_cuda(old) and new.data_ptr() != old.data_ptr():
                    on_cpu(old).copy_(new)


def copy(into: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Copy between any two devices, as `aten::copy_` does."""
    if Graph.tape is not None and not (is_cuda(into) and is_cuda(source)):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
    return copy_kernel(into, source, non_blocking)


copy_kernel = kernel(torch.ops.aten.copy_.default)


# Kernels that a CPU does not have


def attention(q, k, v, is_causal, scale, left, right):
    """Compute softmax(Q K^T scale) V of one sequence: (T, H, D), (T, H_kv, D) twice, to (T, H, D), and its parts."""
    q, k, v = q.float(), *(x.float().repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    distance = torch.arange(len(q))[:, None] - torch.arange(len(k)) + len(k) - len(q)
    is_seen = (distance >= 0) if is_causal else torch.ones_like(distance, dtype=torch.bool)
    if left is not None and left >= 0:
        is_seen &= distance <= left
    if right is not None and right >= 0:
        is_seen &= distance >= -right
    scores = (torch.einsum("qhd,khd->hqk", q, k) * scale).masked_fill(~is_seen, float("-inf"))
    weights = scores.softmax(-1).nan_to_num()
    return torch.einsum("hqk,khd->qhd", weights, v), scores.logsumexp(-1), weights, k, v


def sequences(lengths: torch.Tensor) -> list[slice]:
    return [slice(a, b) for a, b in zip(lengths.tolist(), lengths.tolist()[1:], strict=False) if a < b]


def flash(q, k, v, q_ends, k_ends, q_max, k_max, dropout, is_causal, debug, *, scale=None, window_size_left=None,
          window_size_right=None, **_):  # fmt: skip
    """Attention within each sequence, as `aten::_flash_attention_forward` computes it."""
    out, logsumexp = torch.zeros_like(q), torch.zeros(q.shape[1], len(q))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    for part in sequences(q_ends):
        found = attention(q[part], k[part], v[part], is_causal, scale, window_size_left, window_size_right)
        out[part], logsumexp[:, part] = found[0].to(q.dtype), found[1]
    return out, logsumexp, torch.zeros(2, dtype=torch.uint64), torch.zeros((), dtype=torch.uint64), torch.zeros(0)


def flash_backward(grad, q, k, v, out, logsumexp, q_ends, k_ends, q_max, k_max, dropout, is_causal, seed, unused, *,
                   scale=None, window_size_left=None, window_size_right=None):  # fmt: skip
    grads = [torch.zeros_like(x) for x in (q, k, v)]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    for part in sequences(q_ends):
        found = attention(q[part], k[part], v[part], is_causal, scale, window_size_left, window_size_right)
        weights, keys, values, above = *found[2:], grad[part].float()
        by_weight = torch.einsum("qhd,khd->hqk", above, values)
        scores = weights * (by_weight - (by_weight * weights).sum(-1, keepdim=True)) * scale
        of_keys = torch.einsum("hqk,qhd->khd", scores, q[part].float())
        of_values = torch.einsum("hqk,qhd->khd", weights, above)
        shared = (k.shape[1], q.shape[1] // k.shape[1])
        of_queries = torch.einsum("hqk,khd->qhd", scores, keys)
        found = (of_queries, of_keys.unflatten(1, shared).sum(2), of_values.unflatten(1, shared).sum(2))
        for whole, each in zip(grads, found, strict=True):
            whole[part] = each.to(whole.dtype)
    return tuple(grads)


def rms_norm_backward(grad, x, shape, inverse_rms, weight, wanted):
    normed, by_weight = x.float() * inverse_rms, grad.float() * (1 if weight is None else weight.float())
    last = tuple(range(x.dim() - len(shape), x.dim()))
    of_x = (by_weight - normed * (by_weight * normed).mean(last, keepdim=True)) * inverse_rms
    of_weight = (grad.float() * normed).sum(tuple(range(x.dim() - len(shape))))
    return of_x.to(x.dtype) if wanted[0] else None, of_weight.to(weight.dtype) if wanted[1] else None


def in_dtype(product):
    """Make a matrix product whose result has the dtype that is among its arguments."""

    def run(*args, out=None, **kwargs):
        (dtype,) = [x for x in args if isinstance(x, torch.dtype)]
        args = [x.to(dtype) if isinstance(x, torch.Tensor) else x for x in args if x is not dtype]
        with torch._C._AutoDispatchBelowAutograd(), torch.autocast("cpu", enabled=False):
            found = product(*args, **kwargs)
        return found if out is None else out.copy_(found)

    return run


def in_float32(function):
    """Make a softmax that can return float32 for float16, as a GPU's can."""

    def run(x, dim, half_to_float):
        with torch._C._AutoDispatchBelowAutograd():
            return function(x.float() if half_to_float else x, dim)

    return run


WRITTEN_OUT = {
    "_log_softmax": in_float32(torch.log_softmax),
    "_softmax": in_float32(torch.softmax),
    "_flash_attention_forward": flash,
    "_flash_attention_backward": flash_backward,
    "_fused_rms_norm_backward": rms_norm_backward,
    **{f"{name}.{kind}": in_dtype(getattr(torch, name)) for name in ("mm", "bmm", "addmm", "baddbmm")
       for kind in ("dtype", "dtype_out")},
}  # fmt: skip


def install() -> None:
    """Replace the CUDA kernels of all operators that compute."""
    global library
    warnings.filterwarnings("ignore", message=r"\s*(Warning only once|Overriding a previously registered)")
    library = torch.library.Library("aten", "IMPL")
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        packet, _, overload = name.partition(".")
        if space != "aten" or packet in OWN or not torch._C._dispatch_has_kernel_for_dispatch_key(full, "CUDA"):
            continue
        op = getattr(getattr(torch.ops.aten, packet), overload or "default")
        if not any(r.alias_info and not r.alias_info.is_write for r in op._schema.returns):
            library.impl(name, kernel(op, WRITTEN_OUT.get(name)), "CUDA", allow_override=True)
    library.impl("copy_", copy, "CUDA", allow_override=True)
    torch.cuda.CUDAGraph = torch.cuda.graphs.CUDAGraph = Graph
    # Their kernels would be called without the operators.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)

    def compile_by_aot_eager(self, model, inputs):
        from torch._dynamo.backends.debugging import aot_eager

        return aot_eager(model, inputs)

    torch._TorchCompileInductorWrapper.__call__ = compile_by_aot_eager
