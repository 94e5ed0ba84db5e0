"""Options of `train` and `resume`: checked before anything else is done, and repeated in hints."""

import pytest

from llmrun.errors import InputError
from llmrun.launch.options import launch_options


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        ({"allow": ["cod"]}, "--allow", "cod"),
        ({"until": 0}, "--until", "0"),
        ({"D": 0}, "--D", "0"),
        ({"start": "last"}, "--from", "last"),
        ({"start": "-1"}, "--from", "-1"),
    ],
)
def test_values_out_of_range(given, option, value):
    """Exit 2; the option and the value are named."""
    with pytest.raises(InputError) as caught:
        launch_options(**{"overrides": [], "allow": [], "until": None, **given})

    assert caught.value.message.startswith(f"{option} must be ")
    assert caught.value.message.endswith(f", got {value}")


def test_options_as_typed():
    """A hint repeats the command so that it can be pasted."""
    options = launch_options(["name=a b", "seed=1"], ["code"], 7, 3, "best")

    assert options.as_typed() == " --set 'name=a b' --set seed=1 --D 3 --from best --until 7"


def test_D_as_an_override():
    """`--set batch.D=3` is `--D 3`; other overrides stay."""
    options = launch_options(["seed=1", "batch.D=3"], [], None).with_D_of_overrides()

    assert (options.D, options.overrides) == (3, ("seed=1",))
