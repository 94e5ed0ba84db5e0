"""What `train` and `resume` say before a segment starts and after it has ended."""

import pytest

from llmrun.cli.running import closing_lines, print_plan


@pytest.fixture
def started(project):
    """A prepared segment and how it ended, with so many proven steps."""

    def start(proven_steps: int, **wished):
        prepared = project.prepare(**wished)
        ended = project.go(prepared)
        end = type(ended.end)(ended.end.why, proven_steps)
        return prepared, type(ended)(ended.record, end)

    return start


@pytest.mark.parametrize(("count", "shown"), [(1, "1 step"), (2, "2 steps"), (1234, "1,234 steps")])
def test_proven_steps_in_singular_and_plural(started, count, shown):
    """One step is a step."""
    lines = closing_lines(*started(count))

    assert f"proven: {shown} equal to what an earlier ledger recorded" in lines


def test_nothing_proven_is_not_said(started):
    """A run that recomputed nothing says nothing of proof."""
    assert not any(line.startswith("proven") for line in closing_lines(*started(0)))


def test_the_plan_in_short(project, capsys):
    """Every number has its word; on an even D there is nothing to warn of."""
    prepared = project.prepare()
    prepared.lock.release()
    print_plan(prepared.preflight.resolved)
    err = capsys.readouterr().err

    assert "  20 steps of the whole run, 20,480 tokens, N_params " in err
    assert err.splitlines()[2].endswith(" FLOPs")
    assert "warning" not in err


def test_an_uneven_D_says_what_it_costs(interrupted, capsys):
    """The same warning as `llmrun plan`, before anything starts."""
    prepared = interrupted.prepare_resume(D=3)
    prepared.lock.release()
    print_plan(prepared.preflight.resolved)

    err = capsys.readouterr().err
    assert "warning: D = 3 does not divide V = 4" in err
    assert "33%" in err
    assert "hint: use D = 2" in err
