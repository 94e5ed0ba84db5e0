"""Canary: digests of a few fixed computations, which show the kernels that this process really uses.

Instruction sets that a sandbox forbids, a library that flushes denormals to zero, another BLAS: none of these has
to show in a version or a variable, but each shows in the bits of one of these results.  The sizes are large enough for
the kernels of a real model (AMX, blocked products); everything together takes some ten milliseconds on a CPU.

No random generator of the run is used, and no result depends on anything but the process.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

TOKENS, WIDTH, WIDER, VOCABULARY = 256, 256, 384, 1000
HEADS, LENGTH, HEAD_DIM = 4, 128, 64
DIGITS = 16


def canary(device: torch.device) -> dict[str, str]:
    """Digest of each computation on `device`, by name.

    Threads and determinism switches are those of the process: the caller sets them before.
    """
    names: Mapping[str, Callable[[torch.device], list[Tensor]]] = {
        "linear_fp32": lambda at: _linear(at, torch.float32),
        "linear_bf16": lambda at: _linear(at, torch.bfloat16),
        "attention_fp32": lambda at: _attention(at, torch.float32),
        "attention_bf16": lambda at: _attention(at, torch.bfloat16),
        "cross_entropy": _cross_entropy,
        "norms": _norms,
        "activations": _activations,
        "embedding": _embedding,
        "adamw": _adamw,
        "initial_values": _initial_values,
        "tables": _tables,
        "float_mode": _float_mode,
    }
    with torch.random.fork_rng(devices=[]):
        return {name: digest(compute(device)) for name, compute in names.items()}


def digest(tensors: list[Tensor]) -> str:
    """The first digits of sha256 over the bytes of tensors, whatever their types."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:DIGITS]


def values(device: torch.device, *shape: int, salt: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers in [-1, 1) of a fixed integer sequence: exact in fp32, made without a generator."""
    return _numbers(shape, salt).to(device=device, dtype=dtype, copy=True)


@cache
def _numbers(shape: tuple[int, ...], salt: int) -> Tensor:
    count = torch.Size(shape).numel()
    words = (torch.arange(count, dtype=torch.int64) + salt * 7_919) * 2_654_435_761 % 2**32
    numbers = (words >> 8).to(torch.float64) / 2**23 - 1
    return numbers.to(torch.float32).reshape(shape)


def _with_gradients(output: Tensor, *inputs: Tensor) -> list[Tensor]:
    """An output and the gradients of its inputs, from a backward pass that starts with fixed numbers."""
    start = values(output.device, *output.shape, salt=9, dtype=output.dtype)
    return [output, *torch.autograd.grad(output, inputs, start)]


def _linear(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    x = values(device, TOKENS, WIDTH, salt=1, dtype=dtype).requires_grad_()
    w = values(device, WIDER, WIDTH, salt=2, dtype=dtype).requires_grad_()
    b = values(device, WIDER, salt=3, dtype=dtype).requires_grad_()
    return _with_gradients(F.linear(x, w, b), x, w, b)


def _attention(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    q, k, v = (
        values(device, 2, HEADS, LENGTH, HEAD_DIM, salt=salt, dtype=dtype).requires_grad_()
        for salt in (1, 2, 3)
    )
    return _with_gradients(F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)


def _cross_entropy(device: torch.device) -> list[Tensor]:
    logits = (values(device, TOKENS, VOCABULARY, salt=1) * 8).requires_grad_()
    targets = (torch.arange(TOKENS, device=device) * 37) % VOCABULARY
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return [loss, *torch.autograd.grad(loss, [logits]), torch.softmax(logits, dim=-1)]


def _norms(device: torch.device) -> list[Tensor]:
    x = values(device, TOKENS, WIDTH, salt=1).requires_grad_()
    w = values(device, WIDTH, salt=2).requires_grad_()
    b = values(device, WIDTH, salt=3).requires_grad_()
    root_mean_square = _with_gradients(F.rms_norm(x, (WIDTH,), w, 1e-5), x, w)
    return [*root_mean_square, *_with_gradients(F.layer_norm(x, (WIDTH,), w, b, 1e-5), x, w, b)]


def _activations(device: torch.device) -> list[Tensor]:
    x = (values(device, TOKENS, WIDTH, salt=1) * 6).requires_grad_()
    return [*_with_gradients(F.silu(x), x), *_with_gradients(F.gelu(x), x)]


def _embedding(device: torch.device) -> list[Tensor]:
    table = values(device, VOCABULARY, WIDTH, salt=1).requires_grad_()
    tokens = (torch.arange(4 * TOKENS, device=device) * 37) % 97
    return _with_gradients(F.embedding(tokens, table), table)


def _adamw(device: torch.device) -> list[Tensor]:
    """Two updates of a flat buffer, fused and foreach; a length that ends inside a vector."""
    results = []
    for implementation in ("fused", "foreach"):
        weight = values(device, 4096 + 9, salt=1).requires_grad_()
        optimizer = torch.optim.AdamW(
            [weight], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, **{implementation: True}
        )
        for salt in (2, 3):
            weight.grad = values(device, 4096 + 9, salt=salt)
            optimizer.step()
        state = optimizer.state[weight]
        results += [weight, state["exp_avg"], state["exp_avg_sq"]]
    return results


def _initial_values(_: torch.device) -> list[Tensor]:
    """Normal numbers of the CPU's generator: initial weights are drawn there, whatever the device."""
    generator = torch.Generator(device="cpu").manual_seed(1)
    return [torch.empty(5000).normal_(generator=generator), torch.rand(5000, generator=generator)]


def _tables(_: torch.device) -> list[Tensor]:
    """Elementary functions on the CPU, from which tables of positions and schedules are made."""
    x = values(torch.device("cpu"), 4096, salt=1)
    wide = x.double() * 100
    return [
        torch.sin(wide),
        torch.cos(wide),
        torch.exp(x),
        torch.log(x.abs() + 1),
        torch.pow(x.abs(), 0.3),
        x.sum(),
    ]


def _float_mode(device: torch.device) -> list[Tensor]:
    """A product that is denormal (zero if denormals are flushed), and quotients that show the rounding mode."""
    small = values(device, TOKENS * WIDTH, salt=1) * 1e-30
    return [
        small * 1e-10,
        values(device, TOKENS, salt=2) / 3,
        torch.tensor([5e-324]) * 1,
        torch.tensor([1.0]) / -3,
    ]
