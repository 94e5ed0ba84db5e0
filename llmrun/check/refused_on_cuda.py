"""Operations that torch's deterministic mode refuses on CUDA and executes on a CPU.

Source: documentation of `torch.use_deterministic_algorithms`, torch 2.13.  `cumsum` and `bincount` are refused for some
arguments only, which the note states.
"""

from llmrun.run.inspection import Operation

REFUSED_ON_CUDA = {
    "avg_pool3d_backward": "",
    "_adaptive_avg_pool2d_backward": "",
    "_adaptive_avg_pool3d_backward": "",
    "adaptive_max_pool2d_backward": "",
    "fractional_max_pool2d_backward": "",
    "fractional_max_pool3d_backward": "",
    "upsample_linear1d_backward": "",
    "upsample_bilinear2d_backward": "",
    "upsample_bicubic2d_backward": "",
    "upsample_trilinear3d_backward": "",
    "reflection_pad1d_backward": "",
    "reflection_pad2d_backward": "",
    "reflection_pad3d_backward": "",
    "nll_loss2d_forward": "",
    "_ctc_loss_backward": "",
    "_embedding_bag_dense_backward": "if mode is max",
    "put_": "",
    "put": "",
    "histc": "",
    "bincount": "if weights are given",
    "median": "",
    "grid_sampler_2d_backward": "",
    "grid_sampler_3d_backward": "",
    "cumsum": "of floating point",
    "scatter_reduce": "if reduce is prod",
    "scatter_reduce_": "if reduce is prod",
}
"""By the operation's name without namespace and overload: under which condition; empty: always."""


def condition_on_cuda(operation: Operation) -> str | None:
    """Under which condition CUDA refuses an operation; empty: always; None: it executes it."""
    namespace, _, rest = operation.name.partition(".")
    return REFUSED_ON_CUDA.get(rest.split(".")[0]) if namespace == "aten" else None
