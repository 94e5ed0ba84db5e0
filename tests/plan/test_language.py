"""The words of a plan, English and Chinese."""

import ast
import re
import string
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.cli.app import run
from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.plan.conventions import CONVENTIONS
from llmrun.plan.note import Note, NoteKind
from llmrun.plan.plan import Plan, make_plan
from llmrun.plan.render.compare import comparison
from llmrun.plan.render.explain import explanation
from llmrun.plan.render.language import (
    Language,
    catalogue,
    chinese,
    language_of,
    padded,
    read_po,
    translator,
    width,
    wrapped,
)
from llmrun.plan.render.notes import TEMPLATES, note_text
from llmrun.plan.render.summary import COLUMNS, summary

ROOT = Path(__file__).parents[2]


CHINESE = catalogue("zh")


def constants(node: ast.AST) -> set[str]:
    return {
        each.value
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }


def texts() -> set[str]:
    """Every text that is translated: literals given to `translate`, notes, memory parts, sources of conventions."""
    found = {each.source for each in CONVENTIONS} | set(TEMPLATES.values())
    for path in [*(ROOT / "llmrun" / "plan").rglob("*.py"), *(ROOT / "llmrun" / "cli").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id == "translate" and isinstance(node.args[0], ast.Constant):
                    found.add(node.args[0].value)
                elif node.func.id == "MemoryPart":
                    found |= {text for arg in (node.args[0], node.args[3]) for text in constants(arg)}
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "means":
                found |= constants(node.value)
    return found


def fields(template: str) -> set[str]:
    """The values that a template takes, each with its format."""
    return {f"{name}:{form}" for _, name, form, _ in string.Formatter().parse(template) if name is not None}


def test_the_catalogue_is_complete_and_current() -> None:
    """Every text has a translation and every translation has a text; a changed English text shows up in both lists."""
    found = texts()
    missing = sorted(found - {text for text, translation in CHINESE.items() if translation})
    stale = sorted(CHINESE.keys() - found)

    assert len(found) > 150
    assert (missing, stale) == ([], [])
    assert "#, fuzzy" not in (ROOT / "llmrun" / "plan" / "locale" / "zh.po").read_text(encoding="utf-8")


def test_po_entries_may_span_lines() -> None:
    """Comments and the header are skipped, continued strings are joined, escapes are read."""
    text = (
        'msgid ""\nmsgstr "Language: zh\\n"\n\n'
        '# note\nmsgid ""\n"a \\"b\\" "\n"c"\nmsgstr "x"\n"y"\n\n'
        'msgid "d"\nmsgstr ""\n'
    )

    assert read_po(text) == {'a "b" c': "xy", "d": ""}


def test_a_text_without_translation_stays_english() -> None:
    """As in gettext: a gap in the catalogue is a line in English, never a crash."""
    assert chinese("no such text: {n:,}", n=1234) == "no such text: 1,234"


@pytest.mark.parametrize("template", CHINESE)
def test_a_translation_has_the_same_values(template: str) -> None:
    """Nothing is lost or formatted otherwise on the way."""
    assert fields(CHINESE[template]) == fields(template)


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN", "LC_ALL": ""}, "zh"),
        ({}, "en"),
    ],
)
def test_the_locale_names_the_language(environment: dict[str, str], language: Language) -> None:
    """LC_ALL before LC_MESSAGES before LANG, empty ones passed over."""
    assert language_of(environment) == language


def test_every_kind_of_note_has_a_text() -> None:
    """No note can be made that cannot be shown."""
    assert set(TEMPLATES) == set(get_args(NoteKind))


def test_notes_speak_either_language() -> None:
    """A kind with fields becomes text in the language asked for."""
    note = Note("not_set", {"key": "x.y"})

    assert (note_text(note), note_text(note, chinese)) == ("x.y is not set", "未设置 x.y")


def test_columns_of_wide_letters() -> None:
    """A Chinese character takes two columns, μ and · one."""
    assert (width("μ_tok · 2"), width("检查点"), padded("检查点", 8)) == (9, 6, "检查点  ")


@given(
    st.lists(st.sampled_from(["检查", "点", "goodput", "1,024", "a", "，"]), max_size=30), st.integers(8, 40)
)
def test_wrapping_keeps_every_letter(words: list[str], columns: int) -> None:
    """For any text no letter is lost and, as every word is shorter than a line, no line is too long."""
    text = " ".join(words)
    lines = wrapped(text, columns)

    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(width(line) <= columns for line in lines)


def plan_of(name: str, *overrides: str) -> Plan:
    """A shipped config's plan."""
    loaded = load_config(ROOT / "configs" / name, overrides)
    return make_plan(resolve(loaded, None, MachineFacts(gpus=0)))


CONFIGS = {
    "gpt3-13b.yaml": [],
    "llama-1b.yaml": ["data.path=null"],
    "gpt2-small.yaml": ["data.path=null", "strategy=shard", "hardware.yuan_per_GPU_hour=18"],
    "demo.yaml": ["model.vocab_size=4096"],
}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_summary_fits_a_screen(name: str, language: Language) -> None:
    """At most 46 lines of at most 80 columns, in either language, with the equation in the config's numbers."""
    plan = plan_of(name, *CONFIGS[name])
    lines = summary(plan, translator(language)).splitlines()
    batch = plan.batch

    assert max(width(line) for line in lines) <= COLUMNS
    assert len(lines) <= 46
    assert (
        f"  GB_tok = D · A · μ_tok      {batch.gb_tok:,} = {batch.D:,} · {batch.A:,} · {batch.mu_tok:,}"
        in lines
    )


@given(
    name=st.sampled_from(sorted(CONFIGS)),
    overrides=st.lists(
        st.sampled_from(
            [
                "activation_checkpointing=block",
                "strategy=shard",
                "precision=fp32",
                "model.dropout=0.1",
                "hardware.accelerator=H20",
                "hardware.accelerator=V100-SXM2-16G",
                "hardware.watts_per_device=300",
                "checkpoint.keep_every_steps=null",
                "checkpoint.every_minutes=null",
                "hardware.checkpoint_GBps=0.001",
                "hardware.device_MTBF_hours=1",
                "model.position=alibi",
                "T_tokens=10B",
            ]
        ),
        unique=True,
    ),
)
@settings(max_examples=30)
def test_chinese_says_what_english_says(name: str, overrides: list[str]) -> None:
    """For any config both languages have the same numbers, and no line of the Chinese screen is left English."""
    plan = plan_of(name, *CONFIGS[name], *overrides)
    pairs = [(summary(plan), summary(plan, chinese)), (explanation(plan), explanation(plan, chinese))]
    pairs.append((comparison(plan, plan), comparison(plan, plan, chinese)))

    for said, translated in pairs:
        assert sorted(re.findall(r"\d[\d,.]*\d", said)) == sorted(re.findall(r"\d[\d,.]*\d", translated))
    assert not re.search(r"\b(the|with|each|from|unknown)\b", summary(plan, chinese))


def test_warnings_speak_the_language_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A plan that does not fit says so in Chinese, with what would."""
    code = run(["plan", str(ROOT / "configs" / "gpt3-13b.yaml"), "--lang", "zh"])
    screen = capsys.readouterr()

    assert code == 0
    assert "一个 rank 需要 314 GB，H100-SXM 有 80.0 GB" in screen.err
    assert "（逐位相同）；`llmrun plan --explain` 列出全部办法" in screen.err


def test_a_plan_for_a_cpu_says_that_a_process_keeps_what_it_freed() -> None:
    """The planned memory is what is in use; on an accelerator there is no such sentence."""
    sentence = "a CPU process also keeps freed memory"
    cpu = summary(plan_of("demo.yaml", "model.vocab_size=4096"))

    assert sentence in " ".join(cpu.split())
    assert sentence not in " ".join(summary(plan_of("gpt3-13b.yaml")).split())
