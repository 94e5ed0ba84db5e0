"""Whatever is wrong with a script is said in a line, with the script's own."""

import pytest

from llmrun.errors import InputError
from llmrun.migrate.script import SCRIPT_BYTES_MAX, read_script

UP = "model.layers.0.mlp.up_proj.weight"
WRONG = {
    "syntax": ("x = 1\ndef migrate(old, new:\n", 2, "cannot compile the script: "),
    "null byte": ("x = '\0'\n", None, "cannot compile the script: "),
    "no function": ("x = 1\n", None, "function migrate"),
    "no function but a value": ("migrate = 3\n", None, "function migrate"),
    "raises when loaded": (
        "x = 1\ny = 1 / 0\n",
        2,
        "failed while it was loaded: ZeroDivisionError: division by zero",
    ),
    "imports what is not there": ("import nowhere\n", 1, "ModuleNotFoundError: No module named 'nowhere'"),
    "exits": (
        "def migrate(old, new):\n    raise SystemExit(0)\n",
        2,
        "failed while migrate ran: SystemExit: 0",
    ),
    "raises": (
        "def helper(old):\n    return old['lm_head']\n\ndef migrate(old, new):\n    return helper(old)\n",
        2,
        "failed while migrate ran: NoSuchTensor: the old model has no tensor lm_head",
    ),
    "raises without words": ("def migrate(old, new):\n    assert False\n", 2, "AssertionError: no message"),
    "one argument": ("def migrate(old):\n    return old\n", None, "TypeError: migrate() takes 1 positional"),
    "nothing returned": (
        "def migrate(old, new):\n    dict(old)\n",
        1,
        "got NoneType",
    ),
    "an array": (
        "import numpy\ndef migrate(old, new):\n    return {**old, 'model.norm.weight': numpy.ones(72)}\n",
        2,
        "`new.array(values)` makes one), got ndarray",
    ),
    "a name that is none": (
        "def migrate(old, new):\n    return {**old, 3: 1}\n",
        1,
        "got int",
    ),
    "an unknown name": (
        "def migrate(old, new):\n    return {**old, 'model.norm.wieght': old['model.norm.weight']}\n",
        1,
        "the new model has no tensor model.norm.wieght; the nearest is model.norm.weight",
    ),
    "a name of the old model": (
        "\ndef migrate(old, new):\n    return {**old, 'x': new.init('model.norm.bias')}\n",
        3,
        "NoSuchTensor: the new model has no tensor model.norm.bias; the nearest is",
    ),
    "forgotten": (
        "def migrate(old, new):\n    s = dict(old)\n    del s['model.norm.weight']\n    return s\n",
        1,
        "model.norm.weight of shape (72,)",
    ),
    "a wrong shape that was there": (
        f"def migrate(old, new):\n    return {{**old, 'model.norm.weight': old['{UP}']}}\n",
        1,
        "model.norm.weight must be (72,), got (43, 72)",
    ),
    "a wrong shape of an array": (
        "def migrate(old, new):\n    s = dict(old)\n    s['model.norm.weight'] = new.array([1.0, 2.0])\n    return s\n",
        3,
        "model.norm.weight must be (72,), got (2,)",
    ),
    "apply to no tensor": (
        f"def migrate(old, new):\n    old['{UP}'].apply(max, 3)\n",
        2,
        "TypeError: an operand of apply",
    ),
}


@pytest.mark.parametrize("animal", WRONG)
def test_a_wrong_script_is_refused_before_anything_is_read(migrator, animal):
    """Exit 2, one line that says what, the script's line where one is to blame."""
    text, line, message = WRONG[animal]
    with pytest.raises(InputError) as caught:
        migrator.mapping(text)
    error = caught.value
    script = migrator.driver.directory / "script.py"

    assert message in error.message
    assert "\n" not in error.message
    assert error.exit_code == 2
    assert str(error.where) == (str(script) if line is None else f"{script}:{line}")


LATE = {
    "raises": ("lambda w: w[5, 5, 5]", None, "{UP}: IndexError: too many indices"),
    "another shape": ("lambda w: w[:5]", None, "{UP} must be (43, 72), got (5, 72)"),
    "not a number": ("lambda w: w * float('nan')", None, "{UP} must be finite"),
    "no numbers": (
        "lambda w: 'text'",
        None,
        "{UP}: ValueError: could not convert string",
    ),
    "negative squares": ("lambda w: -abs(w) - 1", "exp_avg_sq", "{UP}.exp_avg_sq"),
}


@pytest.mark.parametrize("animal", LATE)
def test_a_function_that_makes_something_wrong_is_named(migrator, animal):
    """What only shows when values are made names the tensor and the line where it was mapped."""
    function, slot, message = LATE[animal]
    text = f"def migrate(old, new):\n    s = dict(old)\n    s['{UP}'] = s['{UP}'].apply({function})\n    return s\n"
    mapped = migrator.mapping(text)
    with pytest.raises(InputError) as caught:
        mapped.values(UP, slot)

    assert message.replace("{UP}", UP) in caught.value.message
    assert str(caught.value.where) == f"{migrator.driver.directory / 'script.py'}:3"


def test_many_problems_are_shown_together_and_cut(migrator):
    """Eight lines, then a count; the hint says how to make what is missing."""
    with pytest.raises(InputError) as caught:
        migrator.mapping("def migrate(old, new):\n    return {}\n")

    assert "20 are missing" in caught.value.message
    assert len(caught.value.caused_by) == 9
    assert caught.value.caused_by[-1] == "and 12 more"
    assert "`state[name] = new.init(name)`" in caught.value.hints[0]


def test_a_script_that_cannot_be_read(tmp_path):
    """No file, a directory, a huge file: said with the reason."""
    (tmp_path / "huge.py").write_bytes(b"#" * (SCRIPT_BYTES_MAX + 1))
    for name, message in (
        ("none.py", "No such file"),
        (".", "Is a directory"),
        ("huge.py", "1,048,576 bytes"),
    ):
        with pytest.raises(InputError, match=message):
            read_script(tmp_path / name)


def test_the_format_is_that_of_training():
    """A migrated trainer.json has the format that training writes."""
    from llmrun.runtime import state_dict as saving
    from llmrun.storage.checkpoint.manifest import TRAINER_FORMAT

    assert TRAINER_FORMAT == saving.TRAINER_FORMAT
