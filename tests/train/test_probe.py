"""The probe: which variables can change a bit."""

import os

import pytest

from llmrun.provenance.variables import numeric_variables
from llmrun.runtime import environment as part


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA_TF32_OVERRIDE",
        "CUBLAS_WORKSPACE_CONFIG",
        "CUBLASLT_WORKSPACE_SIZE",
        "DISABLE_ADDMM_CUDA_LT",
        "OPENBLAS_CORETYPE",
        "LD_PRELOAD",
        "LD_AUDIT",
        "TORCH_CUBLASLT_UNIFIED_WORKSPACE",
        "CUDA_FORCE_PTX_JIT",
        "TRITON_F32_DEFAULT",
        "GLIBC_TUNABLES",
        "ATEN_CPU_CAPABILITY",
        "ONEDNN_MAX_CPU_ISA",
        "TORCH_BLAS_PREFER_CUBLASLT",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "TORCH_MKLDNN_MATMUL_MIN_DIM",
        "TORCHINDUCTOR_MAX_AUTOTUNE",
        "PYTORCH_TUNABLEOP_ENABLED",
        "PYTORCH_JIT",
    ],
)
def test_what_can_change_a_bit_is_digested(monkeypatch, name):
    """A variable that chooses a kernel, a thread count or a precision is part of the environment."""
    monkeypatch.setenv(name, "1")

    assert numeric_variables(os.environ)[name] == "1"


@pytest.mark.parametrize(
    "name",
    [
        "TORCH_HOME",
        "TORCH_LOGS",
        "TORCH_SHOW_CPP_STACKTRACES",
        "TORCH_CPP_LOG_LEVEL",
        "TORCH_NCCL_TRACE_BUFFER_SIZE",
        "TORCHELASTIC_RUN_ID",
        "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_JIT_LOG_LEVEL",
        "OMP_PROC_BIND",
        "ONEDNN_VERBOSE",
        "CUBLASLT_LOG_LEVEL",
        "LD_PRELOAD_X",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
    ],
)
def test_what_cannot_change_a_bit_is_not_digested(monkeypatch, name):
    """Places, logs and allocators may differ between two segments of a run."""
    monkeypatch.setenv(name, "1")

    assert name not in numeric_variables(os.environ)


def test_cublas_does_not_depend_on_the_order_of_a_directory(monkeypatch):
    """Of several packages the first by name is reported, however they are listed."""

    class Found:
        def __init__(self, name):
            self.metadata = {"Name": name}

    names = ["numpy", "nvidia-cublas-cu12", "nvidia-cublas", None]
    monkeypatch.setattr(part, "version", lambda name: {"nvidia-cublas": "13.0"}.get(name, "12.8"))
    said = set()
    for listed in (names, names[::-1]):
        monkeypatch.setattr(part, "distributions", lambda listed=listed: map(Found, listed))
        said.add(part._cublas())

    assert said == {"nvidia-cublas 13.0"}
