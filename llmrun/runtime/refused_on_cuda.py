"""Operations that torch's deterministic mode refuses on CUDA, and executes on a CPU.

Source: documentation of `torch.use_deterministic_algorithms`, torch 2.13.
"""

from collections.abc import Callable
from typing import Any

Refuses = Callable[[tuple[Any, ...], dict[str, Any]], bool]
"""Whether CUDA refuses a call with these arguments."""


def _always(_args: tuple[Any, ...], _kwargs: dict[str, Any]) -> bool:
    return True


def _if_weighted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return kwargs.get("weights", args[1] if len(args) > 1 else None) is not None


def _if_floating(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> bool:
    return bool(args[0].is_floating_point() or args[0].is_complex())


def _if_product(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(isinstance(value, str) and value == "prod" for value in (*args, *kwargs.values()))


REFUSED: dict[str, Refuses] = {
    "avg_pool3d_backward": _always,
    "_adaptive_avg_pool2d_backward": _always,
    "_adaptive_avg_pool3d_backward": _always,
    "adaptive_max_pool2d_backward": _always,
    "fractional_max_pool2d_backward": _always,
    "fractional_max_pool3d_backward": _always,
    "upsample_linear1d_backward": _always,
    "upsample_bilinear2d_backward": _always,
    "upsample_bicubic2d_backward": _always,
    "upsample_trilinear3d_backward": _always,
    "reflection_pad1d_backward": _always,
    "reflection_pad2d_backward": _always,
    "reflection_pad3d_backward": _always,
    "nll_loss2d_forward": _always,
    "_ctc_loss_backward": _always,
    "put_": _always,
    "put": _always,
    "histc": _always,
    "bincount": _if_weighted,
    "median": _always,
    "grid_sampler_2d_backward": _always,
    "grid_sampler_3d_backward": _always,
    "cumsum": _if_floating,
    "scatter_reduce": _if_product,
    "scatter_reduce_": _if_product,
}
"""By the operation's name without namespace and overload."""


def is_refused_on_cuda(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether CUDA would refuse a call.  name: as torch names it, such as `aten.bincount.default`."""
    namespace, _, rest = name.partition(".")
    refuses = REFUSED.get(rest.partition(".")[0]) if namespace == "aten" else None
    return refuses is not None and refuses(args, kwargs)
