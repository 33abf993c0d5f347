"""Training from scratch, for the reader: the loss, the optimizers, the schedules and the loop, in plain PyTorch.

Top to bottom it is one story: how wrong the model is (`cross_entropy`), how weights move against the gradient (`SGD`,
`Momentum`, `Adam`, `AdamW`, `Muon`), how far at which step (`warmup_cosine`, `warmup_stable_decay`), and the loop that
puts it together (`train`). `folio pretrain` uses faster versions instead; the tests compare these with the libraries'.
How a block of the model turns the loss into gradients is in `block.py`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

IGNORE_INDEX = -100  # the target of a position that has nothing to predict


# --- Loss ---


def log_softmax(logits: Tensor) -> Tensor:
    """log p_i = z_i - log(sum_j exp(z_j)) along the last dimension.

    exp overflows float32 from z = 89 on. Subtracting the largest logit first changes no p, as numerator and denominator
    shrink alike, and leaves exp nothing above 0.
    """
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return shifted - shifted.exp().sum(dim=-1, keepdim=True).log()


class CrossEntropy(torch.autograd.Function):
    """The sum of -log p[target] over all positions with a target, and its gradient by formula.

    The derivative of z_target is 1 at the target, that of log(sum_j exp(z_j)) with respect to z_i is p_i, so

        dL/dz_i = p_i - [i is the target]

    what the model expects minus what came: at each position the gradient's entries sum to 0, and none is beyond 1.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> Tensor:
        counted = targets != IGNORE_INDEX
        index = targets.where(counted, 0).unsqueeze(-1)  # any valid index will do where nothing is counted
        log_p = log_softmax(logits)
        ctx.save_for_backward(log_p, index, counted)
        return -log_p.gather(-1, index).squeeze(-1)[counted].sum()

    @staticmethod
    def backward(ctx, grad: Tensor):
        log_p, index, counted = ctx.saved_tensors
        grad_logits = log_p.exp()
        grad_logits.scatter_add_(-1, index, -torch.ones_like(grad_logits[..., :1]))
        return grad * grad_logits.masked_fill_(~counted.unsqueeze(-1), 0), None


def cross_entropy(logits: Tensor, targets: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Return the mean of -log p[target], in nats: how surprised the model is by what came.

    Args:
        logits: (N, V) scores of the V tokens at N positions.
        targets: (N) the token that came, or `IGNORE_INDEX`.
        num_items: divide by this and not by the number of targets here; for a part of an accumulated batch.
    """
    count = (targets != IGNORE_INDEX).sum() if num_items is None else num_items
    return CrossEntropy.apply(logits, targets) / count


# --- Optimizers ---


class Optimizer:
    """Moves weights by their gradients. A subclass says how one weight tensor moves, in `update`."""

    def __init__(self, params: Iterable[Tensor], lr: float):
        self.params = list(params)
        self.lr = lr
        self.states: list[dict] = [{} for _ in self.params]  # what is remembered of each tensor between steps

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """Take a step at `factor` times the learning rate; a schedule gives the factor."""
        for param, state in zip(self.params, self.states, strict=True):
            if param.grad is not None:
                self.update(param, param.grad, state, self.lr * factor)

    def update(self, param: Tensor, grad: Tensor, state: dict, lr: float) -> None:
        """Change `param` in place."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent: w <- w - lr g (Robbins and Monro, 1951)."""

    def update(self, param: Tensor, grad: Tensor, state: dict, lr: float) -> None:
        param -= lr * grad


class Momentum(Optimizer):
    """SGD with a memory: v <- momentum v + g, w <- w - lr v (Polyak, 1964).

    What gradients agree on adds up, to 1 / (1 - momentum) times itself; what they disagree on cancels.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum=0.9):
        super().__init__(params, lr)
        self.momentum = momentum

    def update(self, param: Tensor, grad: Tensor, state: dict, lr: float) -> None:
        if not state:
            state["velocity"] = torch.zeros_like(param)
        param -= lr * state["velocity"].mul_(self.momentum).add_(grad)


class Adam(Optimizer):
    """A step size for each weight: w <- w - lr m / (sqrt(v) + eps) (Kingma and Ba, 2015).

    m and v are running means of g and of g^2. Both begin at 0 and after t steps are still too small by 1 - beta^t, so
    they are divided by it. m / sqrt(v) is near 1 for a weight whose gradients agree and near 0 for one whose
    gradients are noise, whatever their size: a rare token's embedding moves as far as a frequent one's. Weight decay
    adds the gradient of (weight_decay / 2) |w|^2, which pulls every weight towards 0.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def update(self, param: Tensor, grad: Tensor, state: dict, lr: float) -> None:
        self.move(param, grad + self.weight_decay * param, state, lr)

    def move(self, param: Tensor, grad: Tensor, state: dict, lr: float) -> None:
        beta1, beta2 = self.betas
        if not state:
            state.update(t=0, m=torch.zeros_like(param), v=torch.zeros_like(param))
        state["t"] += 1
        m = state["m"].mul_(beta1).add_(grad, alpha=1 - beta1)
        v = state["v"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        mean, mean_square = m / (1 - beta1 ** state["t"]), v / (1 - beta2 ** state["t"])
        param -= lr * mean / (mean_square.sqrt() + self.eps)


class AdamW(Adam):
    """Adam with decoupled weight decay: w <- (1 - lr weight_decay) w, then Adam's step (Loshchilov and Hutter, 2019).

    In Adam the decay goes through m / sqrt(v) like any gradient, which nearly removes it from the weights whose
    gradients are large. Here it takes the same share of all of them.
    """

    def update(self, param: Tensor, grad: Tensor, state: dict, lr: float) -> None:
        param.mul_(1 - lr * self.weight_decay)
        self.move(param, grad, state, lr)


def orthogonalize(matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearly U V^T, where U S V^T is the singular value decomposition of `matrix` (m, n): every singular value near 1.

    X <- a X + (b A + c A^2) X with A = X X^T keeps U and V and maps each singular value s to a s + b s^3 + c s^5
    (Newton-Schulz). Jordan et al. (2024) chose a, b, c to lift small values as fast as possible: after 5 steps all
    but the tiniest lie between about 0.7 and 1.2, at which Muon works as well as at 1. `dtype` is that of the work;
    bfloat16 is enough.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.to(dtype)
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T  # the smaller X X^T
    x = x / x.norm().clamp(min=1e-7)  # singular values of at most 1, where the polynomial works
    for _ in range(steps):
        # addmm(P, Q, R, beta=s, alpha=t) is s P + t Q R, rounded once.
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if is_tall else x


class Muon(Optimizer):
    """Momentum, orthogonalized, for hidden matrices: w <- (1 - lr weight_decay) w - lr O (Jordan et al., 2024).

    A gradient's few large singular values drown the rest. O has their directions, all at the same size, so that one
    step uses every direction. Tall matrices take steps sqrt(m / n) times as large, so that outputs change alike.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum=0.95, weight_decay=0.1, dtype=torch.bfloat16):
        super().__init__(params, lr)
        if any(param.ndim != 2 for param in self.params):
            raise ValueError("Muon moves matrices: give embeddings and weights of other shapes to AdamW.")
        self.momentum, self.weight_decay, self.dtype = momentum, weight_decay, dtype

    def update(self, param: Tensor, grad: Tensor, state: dict, lr: float) -> None:
        if not state:
            state["mean"] = torch.zeros_like(param)
        mean = state["mean"].lerp_(grad, 1 - self.momentum)  # a running mean, then a look ahead (Nesterov, 1983)
        direction = orthogonalize(grad.lerp(mean, self.momentum), dtype=self.dtype)
        rows, columns = param.shape
        param.mul_(1 - lr * self.weight_decay)
        param.add_(direction, alpha=-lr * math.sqrt(max(1, rows / columns)))


# --- Schedules: the factor of the learning rate at each step, counted from 0 ---


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Linearly from 0 to 1 in `warmup` steps, then down to 0 along half a cosine (Loshchilov and Hutter, 2017).

    At first the gradients are large and Adam's means know little: full steps would throw the weights far out.
    """
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def warmup_stable_decay(step: int, warmup: int, total: int, decay: int) -> float:
    """Linearly up to 1, level, then linearly to 0 in the last `decay` steps (Hu et al., 2024).

    The level part does not depend on `total`: a run can be prolonged from before its decay.
    """
    if step < warmup:
        return step / warmup
    return min(1.0, max(0, total - step) / max(1, decay))


# --- The loop ---


def clip_gradients(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients to a common norm of at most `max_norm` (Pascanu et al., 2013); returns the norm before.

    One scale for all keeps the direction, so that one bad batch moves the model no further than a good one.
    """
    grads = [param.grad for param in params if param.grad is not None]
    norm = torch.stack([grad.norm() for grad in grads]).norm()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1)
    for grad in grads:
        grad.mul_(scale)
    return norm


def batches(examples: int, batch_size: int, accumulate: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the indices of each step's `accumulate` batches, endlessly, each epoch in a new order.

    An epoch's last batch, and its last step, have what is left.
    """
    generator, epoch = torch.Generator(), 0
    while True:
        order = torch.randperm(examples, generator=generator.manual_seed(seed + epoch)).split(batch_size)
        for start in range(0, len(order), accumulate):
            yield order[start : start + accumulate]
        epoch += 1


def train(
    model: nn.Module,
    input_ids: Tensor,
    labels: Tensor,
    optimizers: Sequence[Optimizer],
    schedule: Callable[[int], float],
    steps: int,
    batch_size: int,
    accumulate: int = 1,
    max_norm: float = 1.0,
    seed: int = 0,
) -> list[float]:
    """Train a causal language model of transformers' kind; returns each step's loss, in nats a token.

    Args:
        model: maps ids (B, T) to an object with `logits` (B, T, V).
        input_ids: (N, T) the examples.
        labels: (N, T) the same, `IGNORE_INDEX` where there is nothing to predict.
        optimizers: together have all the weights that learn, such as Muon's matrices and AdamW's rest.
        schedule: the factor of the learning rates at a step.
        accumulate: batches whose gradients are added up before a step: a larger batch in the same memory.
    """
    params = [param for optimizer in optimizers for param in optimizer.params]
    targets = labels[:, 1:]  # position t predicts token t + 1
    losses = []
    model.train()
    for step, parts in zip(range(steps), batches(len(input_ids), batch_size, accumulate, seed), strict=False):
        # Every token weighs the same, also if one part has fewer: divide by the targets of the whole step.
        num_items = sum((targets[part] != IGNORE_INDEX).sum() for part in parts)
        total = 0.0
        for part in parts:
            logits = model(input_ids=input_ids[part], use_cache=False).logits[:, :-1]  # (B, T-1, V)
            loss = cross_entropy(logits.flatten(0, 1), targets[part].flatten(), num_items)
            loss.backward()  # adds to what param.grad holds
            total += loss.item()
        clip_gradients(params, max_norm)
        for optimizer in optimizers:
            optimizer.step(schedule(step))
        model.zero_grad()
        losses.append(total)
    return losses
