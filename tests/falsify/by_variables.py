"""Attempts by environment variables that a user, a cluster or a container may set."""

from falsify.attempt import EQUAL, HARMLESS, HONEST, OTHER, Attempt, Ending, variant


def _variables(
    name: str, allowed: tuple[Ending, ...], because: str, config: str = "bf16", **variables: str
) -> Attempt:
    """An attempt that only sets variables."""
    what = " ".join(f"{key}={value}" for key, value in variables.items())
    return Attempt(name, what, allowed, because, variant(config, env=variables))


PINNED = "workers get the value of the config"
CHOOSES = "chooses kernels, so it is part of the environment"
FAMILY = "its family of variables is part of the environment as a whole"
NO_BITS = "changes no bit, and may not make a fingerprint of its own"

ATTEMPTS = (
    _variables("threads", EQUAL, PINNED, OMP_NUM_THREADS="2", MKL_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2"),
    _variables("omp-dynamic", HARMLESS, FAMILY, OMP_DYNAMIC="true", OMP_SCHEDULE="dynamic,1", OMP_NESTED="true"),
    _variables("omp-places", EQUAL, "only places threads", OMP_PROC_BIND="close", OMP_PLACES="cores"),
    _variables("mkl-cbwr", OTHER, CHOOSES, "fp32", MKL_CBWR="COMPATIBLE"),
    _variables("mkl-instructions", OTHER, CHOOSES, "fp32", MKL_ENABLE_INSTRUCTIONS="SSE4_2"),
    _variables("aten-default", OTHER, CHOOSES, ATEN_CPU_CAPABILITY="default"),
    _variables("aten-avx2", OTHER, CHOOSES, ATEN_CPU_CAPABILITY="avx2"),
    _variables("dnnl-isa", OTHER, CHOOSES, DNNL_MAX_CPU_ISA="AVX2"),
    _variables("onednn-isa", OTHER, CHOOSES, ONEDNN_MAX_CPU_ISA="SSE41"),
    _variables("onednn-fpmath", OTHER, CHOOSES, "fp32", ONEDNN_DEFAULT_FPMATH_MODE="BF16"),
    _variables("onednn-cache", HARMLESS, FAMILY, ONEDNN_PRIMITIVE_CACHE_CAPACITY="0", OPENBLAS_CORETYPE="Haswell"),
    _variables("numpy-features", HONEST, "numpy makes no number of a step", NPY_DISABLE_CPU_FEATURES="AVX2 FMA3"),
    _variables("libm-variants", OTHER, CHOOSES, GLIBC_TUNABLES="glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F"),
    _variables("huge-pages", HARMLESS, FAMILY, GLIBC_TUNABLES="glibc.malloc.hugetlb=1"),
    _variables(
        "malloc-arenas", EQUAL, NO_BITS, MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="4096", MALLOC_TOP_PAD_="0",
        LD_BIND_NOW="1",
    ),
    _variables("malloc-perturb", EQUAL, "no read of memory that was not written", MALLOC_PERTURB_="165"),
    _variables("hash-seed", EQUAL, PINNED, PYTHONHASHSEED="4242"),
    _variables("optimize-2", HARMLESS, "asserts and docstrings make no number", PYTHONOPTIMIZE="2"),
    _variables("no-byte-code", EQUAL, NO_BITS, PYTHONDONTWRITEBYTECODE="1"),
    _variables("warnings", EQUAL, NO_BITS, PYTHONWARNINGS="ignore", PYTHONDEVMODE="1", PYTHONUTF8="1"),
    _variables("warnings-error", (Ending.EQUAL, Ending.REFUSED), "a warning may end a start, not change it", PYTHONWARNINGS="error"),
    _variables("python-malloc", EQUAL, NO_BITS, PYTHONMALLOC="malloc"),
    _variables("inductor", OTHER, CHOOSES, TORCHINDUCTOR_MAX_AUTOTUNE="1"),
    _variables("torch-logs", EQUAL, NO_BITS, TORCH_SHOW_CPP_STACKTRACES="1", TORCH_LOGS="+dynamo", CUDA_VISIBLE_DEVICES=""),
    _variables("torch-jit", OTHER, CHOOSES, PYTORCH_JIT="0"),
    _variables("torch-tf32", HARMLESS, FAMILY, "fp32", TORCH_ALLOW_TF32_CUBLAS_OVERRIDE="1", PYTORCH_TUNABLEOP_ENABLED="1"),
    _variables("rtld-global", HONEST, "changes which library a name is taken from", TORCH_USE_RTLD_GLOBAL="YES"),
    _variables("openmp", HARMLESS, FAMILY, KMP_BLOCKTIME="0", GOMP_SPINCOUNT="0", GOMP_CPU_AFFINITY="1"),
    _variables("locale-c", EQUAL, NO_BITS, LC_ALL="C", LANG="C", TZ="Pacific/Apia"),
    _variables("locale-tr", EQUAL, NO_BITS, LC_ALL="tr_TR.UTF-8", LANG="tr_TR.UTF-8"),
    _variables(
        "other-launcher", EQUAL, "workers get the variables of their own launcher",
        RANK="3", LOCAL_RANK="1", WORLD_SIZE="5", MASTER_ADDR="192.0.2.1", MASTER_PORT="1", TORCHELASTIC_RUN_ID="x",
        SLURM_PROCID="3", SLURM_NTASKS="5", LLMRUN_AGENT_PID="1",
    ),
)  # fmt: skip
