"""The documents are true: what README tells a user to type exists, and numbers on the pages are the code's."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llmrun.cli.command_reference import commands, parameters
from llmrun.cli.registry import MEANINGS
from llmrun.config.load import load_config
from llmrun.config.resolve import DatasetFacts, MachineFacts, resolve
from llmrun.core.lanes import UnevenCost, cost_of
from llmrun.data.stream_digest import StreamDigest
from llmrun.errors import InputError
from llmrun.launch.torchrun import worker_environment

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
VECTORS = json.loads((ROOT / "tests" / "vectors.json").read_text(encoding="utf-8"))


def page(name: str) -> str:
    """The text of a document."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL)


def lines_typed(name: str) -> Iterator[list[str]]:
    """Every command line of a document, as words."""
    for block in blocks(name, "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def check_llmrun(words: list[str]) -> None:
    """Asserts that a command line of llmrun names a command, its options, and enough arguments."""
    known = dict(commands())
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), None)
    assert name is not None, f"llmrun has no command {words[0]}"
    found = parameters(known[name])
    options = {p.shown.split()[0]: len(p.shown.split()) for p in found if p.shown.startswith("-")}
    rest = words[len(name.split()) :]
    arguments = 0
    while rest:
        word, *rest = rest
        if word.startswith("-"):
            assert word in options, f"llmrun {name} has no option {word}"
            rest = rest[options[word] - 1 :]
        else:
            arguments += 1
    needed = [p for p in found if p.required and not p.shown.startswith("-")]
    assert arguments >= len(needed), f"llmrun {name} needs {[p.shown for p in needed]}"


def check_make(targets: list[str]) -> None:
    """Asserts that every target is one of the Makefile."""
    known = re.findall(r"^([a-z][a-z-]*):", page("Makefile"), re.MULTILINE)
    assert set(targets) <= set(known), targets


@pytest.mark.parametrize("name", READMES)
def test_what_the_readme_types_exists(name: str) -> None:
    """Every command line in a bash block names existing commands, options and targets."""
    typed = list(lines_typed(name))
    for words in typed:
        if words[0] == "llmrun":
            check_llmrun(words[1:])
        if words[0] == "make":
            check_make(words[1:])

    assert ["make", "demo"] in typed
    assert ["make", "test"] in typed
    assert {words[0] for words in typed} == {"llmrun", "make", "pip"}


@pytest.mark.parametrize(
    "line", ["verify --strickt a b", "checkpoints diff a", "data cheque x", "plan --json"]
)
def test_a_wrong_command_line_is_found(line: str) -> None:
    """The check sees a wrong option, a missing argument and a wrong command."""
    with pytest.raises(AssertionError, match="llmrun"):
        check_llmrun(line.split())


@pytest.mark.parametrize("name", READMES)
def test_the_example_config_is_sound(name: str, tmp_path: Path) -> None:
    """The README's config loads and resolves for training, on a dataset of its own vocabulary."""
    (example,) = blocks(name, "yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(example, encoding="utf-8")
    resolved = resolve(load_config(path), DatasetFacts(8192, 10**7, 10**5), MachineFacts(0))

    assert (resolved.batch.A, resolved.batch.D, resolved.batch.V) == (4, 2, 8)


def test_both_readmes_show_the_same_commands() -> None:
    """The Chinese README types what the English one types, and has as many table rows."""
    english, chinese = (page(name) for name in READMES)

    assert list(lines_typed(READMES[0])) == list(lines_typed(READMES[1]))
    assert english.count("\n|") == chinese.count("\n|")
    assert english.count("\n#") == chinese.count("\n#")


@pytest.mark.parametrize("name", READMES)
def test_the_readme_lists_the_exit_codes(name: str) -> None:
    """One row for each code that llmrun states."""
    rows = re.findall(r"^\| (\d+) \|", page(name), re.MULTILINE)

    assert [int(code) for code in rows] == sorted(MEANINGS)


def test_the_order_vectors_are_those_of_the_tests() -> None:
    """docs/data-format.md copies seeds, entries and last entries from vectors.json."""
    rows = re.findall(
        r"^\| (\d+) \| (\d+) \| ([\d,]+) \| ([\d, ]+) \| (\d+) \|$", page("docs/data-format.md"), re.MULTILINE
    )
    vectors = {(v["seed"], v["epoch"], v["W"]): v for v in VECTORS["order"]}

    assert len(rows) == 4
    for seed, epoch, W, first, last in rows:
        vector = vectors[int(seed), int(epoch), int(W.replace(",", ""))]
        shown = [int(entry) for entry in first.split(", ")]
        assert (shown, int(last)) == (vector["first"][: len(shown)], vector["last"])


def test_the_stream_digests_are_true() -> None:
    """The two digests in docs/data-format.md are those of no token and of 0 … 4."""
    digest = StreamDigest()
    empty = digest.hexdigest()
    digest.update(np.arange(5, dtype=np.uint16))

    assert re.findall(r"`([0-9a-f]{64})`", page("docs/data-format.md")) == [empty, digest.hexdigest()]


def test_the_stream_vectors_are_those_of_the_tests() -> None:
    """docs/determinism.md copies key, CUDA seed and first number from vectors.json."""
    rows = re.findall(
        r"^\| `(\[.*?\])` \| `(\w{16})` \| `(\w{16})` \| `(\w{8})` \|$",
        page("docs/determinism.md"),
        re.MULTILINE,
    )
    vectors = {tuple(v["of"]): v for v in VECTORS["streams"]}

    assert len(rows) == 3
    for of, key, cuda_seed, first in rows:
        vector = vectors[tuple(json.loads(of))]
        assert (key, cuda_seed, first) == (
            vector["key"][:16], vector["cuda_seed"], vector["cpu_rand4_as_fp32_bits"][0],
        )  # fmt: skip


def costs_shown(V: int, D: int) -> str:
    """One row's figures as docs/determinism.md shows them."""
    cost: UnevenCost = cost_of(V, D)
    idle = 100 * cost.idle_share
    share = f"{idle:.2g} %" if idle else "0"
    nodes = f"{sum(cost.nodes_per_rank) / D:.1f}".removesuffix(".0")
    return f"| V = {V}, D = {D} | {share} | {nodes} | {cost.buffers} |"


@pytest.mark.parametrize(("V", "D"), [(8, 3), (64, 8), (64, 7), (64, 5)])
def test_the_costs_of_uneven_D_are_true(V: int, D: int) -> None:
    """The table in docs/determinism.md holds what lanes.py computes."""
    assert costs_shown(V, D) in page("docs/determinism.md")


def test_every_pinned_variable_is_explained() -> None:
    """docs/determinism.md names each variable that workers get."""
    text = page("docs/determinism.md")

    assert all(f"`{name}`" in text for name in worker_environment({}, threads_per_rank=1))


def test_every_switch_is_explained() -> None:
    """docs/determinism.md names each switch that core/determinism.py sets."""
    source = page("llmrun/core/determinism.py")
    switches = re.findall(r"torch\.(?:backends\.)?([\w.]+)(?: = |\()", source)
    text = page("docs/determinism.md")

    assert len(switches) >= 7
    assert [name for name in switches if name not in text] == []


def test_the_refusal_in_the_docs_is_the_one_of_the_code() -> None:
    """docs/fingerprint.md shows a refusal in the words that the launcher uses."""
    from llmrun.cli.console import render_error
    from llmrun.launch.refusals import ChangeToAllow, refuse_unless_allowed

    difference = ChangeToAllow("config", "optimizer.lr: 0.001 -> 0.0005")
    with pytest.raises(Exception, match=r"optimizer\.lr") as refusal:
        refuse_unless_allowed([difference], frozenset(), "llmrun resume demo --set optimizer.lr=0.0005", 40)

    assert not isinstance(refusal.value, InputError)
    assert render_error(refusal.value) in page("docs/fingerprint.md")
