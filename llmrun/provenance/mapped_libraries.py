"""The numeric libraries that this process has mapped (/proc/self/maps), by the sha256 of their content.

Their paths are not enough: `LD_LIBRARY_PATH` takes precedence over the RUNPATH by which torch finds its own libraries.
Included are libraries with the names of BLAS, oneDNN, OpenMP, libm, libc and torch, and every library outside the
directories of the system, of Python and of installed packages.

No file is hashed twice in one start: the probe passes its digests to the workers, with the identity of each file.  A
worker uses a digest only if the identity is unchanged; a program cannot set the change time (ctime).
"""

# ruff: noqa: PTH119, PTH123
# paths come from the kernel as text and are compared as text

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

NUMERIC_LIBRARY = re.compile(
    r"lib(torch|torch_cpu|torch_python|torch_global_deps|c10|mkl\w*|dnnl|\w*openblas\w*|c?blas|f77blas|lapacke?|blis\w*|"
    r"atlas|armpl\w*|arm_compute\w*|gomp|omp|iomp5|sleef|svml|imf|amath|mvec|m|c)(-[0-9a-zA-Z.]+)?\.so(\.\d+)*"
)
SYSTEM_DIRECTORIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
REPLACED = "replaced on disk after it was loaded"


@dataclass(frozen=True)
class FileSum:
    """sha256 of a library file, and the identity of the file that was hashed.

    identity: device, inode, bytes, mtime and ctime (ns).
    """

    sha256: str
    identity: tuple[int, ...]


def mapped_libraries(known: Mapping[str, FileSum]) -> dict[str, FileSum]:
    """The numeric libraries mapped by this process, by path.

    known: digests by path; reused for files whose identity is unchanged.
    """
    wanted = {path: inode for path, inode in _mapped_files() if may_change_bits(path)}
    with ThreadPoolExecutor(max_workers=2) as readers:
        paths = sorted(wanted)
        sums = readers.map(lambda path: _sum_of(path, wanted[path], known.get(path)), paths)
        return dict(zip(paths, sums, strict=True))


def by_name(libraries: Mapping[str, FileSum]) -> dict[str, str]:
    """Digests by file name, for the fingerprint: the directory of a library cannot change a bit.

    Digests of files with the same name are joined by `+`.
    """
    sums: dict[str, set[str]] = {}
    for path, found in libraries.items():
        sums.setdefault(os.path.basename(path), set()).add(found.sha256)
    return {name: "+".join(sorted(sums[name])) for name in sorted(sums)}


def may_change_bits(path: str) -> bool:
    """Whether a mapped library has the name of a numeric one, or lies outside all installation directories."""
    if NUMERIC_LIBRARY.fullmatch(os.path.basename(path)):
        return True
    homes = (
        *SYSTEM_DIRECTORIES,
        sys.prefix,
        sys.base_prefix,
        *(p for p in sys.path if p.endswith("-packages")),
    )
    return ".so" in os.path.basename(path) and not path.startswith(tuple(f"{home}/" for home in homes))


def _mapped_files() -> Iterable[tuple[str, int]]:
    """(path, inode) of each executable mapping of a file; empty if /proc is not readable."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            lines = [line.rstrip("\n").split(maxsplit=5) for line in maps]
    except OSError:
        return []
    return {
        (fields[5].removesuffix(" (deleted)"), int(fields[4]))
        for fields in lines
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/")
    }


def _sum_of(path: str, inode: int, known: FileSum | None) -> FileSum:
    """The digest of a mapped file, whose inode must still be that of the mapping."""
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            if stat.st_ino != inode:
                return FileSum(REPLACED, identity)
            if known is not None and known.identity == identity:
                return known
            return FileSum(hashlib.file_digest(file, "sha256").hexdigest(), identity)
    except OSError as error:
        return FileSum(f"cannot be read: {error.strerror}", ())
