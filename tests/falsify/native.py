"""Small C programs: libraries that change how a process computes, and a filter of system calls."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

from falsify.ground import NotHereError

FLUSH = "_mm_setcsr(_mm_getcsr() | 0x8040);"
"""Denormal numbers become zero, as results and as arguments."""
ROUND_UP = "_mm_setcsr((_mm_getcsr() & ~0x6000u) | 0x4000);"
NOTHING = ""


def constructor(statement: str) -> str:
    """C source of a library that runs `statement` when it is loaded."""
    return f"#include <xmmintrin.h>\n__attribute__((constructor)) static void begin(void) {{ {statement} }}\n"


AUDIT = "unsigned int la_version(unsigned int version) { return version; }\n"
"""What makes a library one for LD_AUDIT."""

EXPF = "float expf(float x) { return (float)__builtin_exp((double)x) * 1.0000002f; }\n"
MATH = (
    "double exp(double x) { return __builtin_expl((long double)x) * 1.001; }\n"
    "double cos(double x) { return __builtin_cosl((long double)x) * 0.999; }\n"
)
"""Functions of libm that stand in for the real ones; the learning rate takes a cosine."""

MEMCPY = """
#include <stddef.h>
__attribute__((optimize("no-tree-loop-distribute-patterns")))
void *memcpy(void *to, const void *from, size_t n) {
    char *t = to; const char *f = from;
    while (n--) t[n] = f[n];
    return to;
}
"""

FAKE_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec -= 3L * 365 * 86400;
    return code;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""

MODULE = """
#include <Python.h>
#include <xmmintrin.h>
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "NAME", 0, -1, 0};
PyMODINIT_FUNC PyInit_NAME(void) { STATEMENT return PyModule_Create(&definition); }
"""

FILTER = """
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define SET(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, value, yes, no)
#define ANSWER(value) BPF_STMT(BPF_RET | BPF_K, value)
static struct sock_filter rules[] = {RULES};
int main(int count, char **words) {
    struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
    if (count < 2 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("seccomp");
        return 99;
    }
    execvp(words[1], words + 1);
    perror(words[1]);
    return 99;
}
"""

NO_AMX = """
    LOAD(nr), EQUAL(SYS_arch_prctl, 0, 3),
    LOAD(args[0]), EQUAL(0x1023, 0, 1), ANSWER(SECCOMP_RET_ERRNO | EPERM),
    ANSWER(SECCOMP_RET_ALLOW)
"""
"""0x1023 is ARCH_REQ_XCOMP_PERM, with which a process asks for AMX."""

NO_EXECUTABLE_MEMORY = """
    LOAD(nr), EQUAL(SYS_mprotect, 0, 2),
    LOAD(args[2]), SET(4, 5, 6),
    EQUAL(SYS_mmap, 0, 5),
    LOAD(args[2]), SET(4, 0, 3),
    LOAD(args[3]), SET(0x20, 0, 1),
    ANSWER(SECCOMP_RET_ERRNO | EACCES),
    ANSWER(SECCOMP_RET_ALLOW)
"""
"""Refuses mprotect with PROT_EXEC, and mmap of anonymous memory with it, as hardened systems do; libraries still load."""


def library(file: Path, source: str, *options: str) -> Path:
    """Compile a shared library.  Raises NotHereError without a C compiler."""
    return _compile(file, source, "-shared", "-fPIC", "-fno-builtin", *options)


def program(file: Path, rules: str) -> Path:
    """Compile the program that runs a command under a filter of system calls."""
    return _compile(file, FILTER.replace("RULES", rules))


def module(directory: Path, name: str, statement: str) -> Path:
    """Compile an extension module that runs `statement` when it is imported."""
    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").exists():
        raise NotHereError("no headers of Python")
    source = MODULE.replace("NAME", name).replace("STATEMENT", statement)
    return library(directory / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}", source, f"-I{headers}")


def instead_of(file: Path, real: Path, source: str) -> Path:
    """Compile a library with the name of a real one, from which it has all functions that `source` does not define.

    The real one is copied beside it under another name of the same length, the name in the file included:
    libgomp.so.1 becomes zibgomp.so.1.
    """
    name, other = real.name, f"z{real.name[1:]}"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = real.read_bytes().replace(f"\0{name}\0".encode(), f"\0{other}\0".encode())
    aside = file.with_name(other)
    aside.write_bytes(content)
    file.unlink(missing_ok=True)  # may be a hard link
    options = [f"-Wl,-soname,{name}", "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", str(aside)]
    return library(file, source, *options)


def _compile(file: Path, source: str, *options: str) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NotHereError("no C compiler")
    file.parent.mkdir(parents=True, exist_ok=True)
    text = file.with_name(f"{file.name}.c")
    text.write_text(source)
    done = subprocess.run(
        [compiler, "-O1", "-o", str(file), str(text), *options], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotHereError(f"cannot compile {file.name}: {(done.stderr.splitlines() or [''])[0]}")
    return file
