"""run.json: written, read, closed."""

import json
from dataclasses import replace

import pytest

from llmrun.errors import DamagedError, InputError
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.run.directory import RunDirectory
from llmrun.run.overview import lines_of, overview_of, true_status
from llmrun.run.record import RunRecord, Segment, read_record

PREIMAGES = {
    "config": {"T_tokens": 204800, "batch": {"gb_tok": 1024}, "μ": 1},
    "data": {"train": "aa"},
    "code": {},
    "environment": {"torch": "2.13.0"},
}
FINGERPRINT = Fingerprint(PREIMAGES)
GIT = {"commit": None, "root_commits": [], "diff_sha256": "0" * 64, "dirty": {}}


def segment(number=1, **changed):
    fields = {
        "segment": number,
        "D": 2,
        "from_step": 0,
        "to_step": None,
        "started": "2026-11-24T09:00:00+00:00",
        "ended": None,
        "why": None,
        "allowed": [],
        "changes": [],
        "overrides": [],
        "fingerprint": FINGERPRINT.digest,
        "parts": FINGERPRINT.parts,
        "preimages": {},
        "git": GIT,
        "host": "node7",
        "proven_steps": 0,
        "checkpoint": None,
    }
    return Segment(**(fields | changed))


def record(**changed):
    fields = {
        "identity": "demo",
        "created": "2026-11-24T09:00:00+00:00",
        "status": "created",
        "steps": 200,
        "config": {"name": "demo"},
        "fingerprint": FINGERPRINT.as_json(),
        "git": GIT,
        "working_directory": "/srv/alice/project",
    }
    return RunRecord(**(fields | changed))


def test_round_trip(tmp_path):
    """A record with segments is read back equal."""
    written = record().with_segment(segment()).closed("reached", 40, 3).with_segment(segment(2, from_step=40))
    written.write(tmp_path / "run.json")

    assert read_record(tmp_path / "run.json") == written


def test_the_contract_for_scripts(tmp_path):
    """`segments[-1].from_step` and the status stand where the documentation says."""
    record().with_segment(segment(from_step=12)).write(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())

    assert document["format"] == "llmrun-run/1"
    assert document["segments"][-1]["from_step"] == 12
    assert document["status"] == "running"
    assert set(document["fingerprint"]) == {"digest", "parts", "preimages"}


def test_closing_says_when_why_and_how_far():
    """An ended segment has an end, and the run its status."""
    closed = record().with_segment(segment()).closed("preempted", 17, 5)

    assert closed.status == "preempted"
    assert (closed.last.why, closed.last.to_step, closed.last.proven_steps) == ("preempted", 17, 5)
    assert closed.last.ended is not None
    assert closed.proven_steps == 5


def test_a_segment_ends_once():
    """Closing an ended segment is a bug, not a silent overwrite."""
    with pytest.raises(AssertionError, match="has ended already"):
        record().with_segment(segment()).closed("failed", 3).closed("failed", 4)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{", ""),
        (b"[]", "None"),
        (b'{"format": "llmrun-run/9"}', "llmrun-run/9"),
        (b'{"format": "llmrun-run/1", "segments": []}', "'identity'"),
        (b'{"format": "llmrun-run/1"}', "'segments'"),
        (b'{"format": "llmrun-run/1", "segments": [1]}', ""),
        (b"\xff\xfe", ""),
    ],
)
def test_a_file_that_is_not_a_record_is_refused(tmp_path, content, named):
    """Damage and other formats are errors of the input that name the file, never a traceback."""
    (tmp_path / "run.json").write_bytes(content)

    with pytest.raises(InputError) as refused:
        read_record(tmp_path / "run.json")

    assert str(tmp_path / "run.json") in refused.value.message
    assert named in refused.value.message


def test_warnings_keep_their_key_on_disk(tmp_path):
    """run.json and outcomes say `remarks`, as earlier versions wrote and read them."""
    closed = record().with_segment(segment()).closed("reached", 40, 0, ["slow disk"])
    closed.write(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())

    assert document["segments"][0]["remarks"] == ["slow disk"]
    assert "warnings" not in document["segments"][0]
    assert read_record(tmp_path / "run.json") == closed


def test_keys_of_a_later_version_are_ignored(tmp_path):
    """A record with one more key is still read."""
    record().write(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**document, "added_later": 1}))

    assert read_record(tmp_path / "run.json") == record()


def test_a_run_left_running_by_a_killed_launcher_is_shown_as_killed(tmp_path):
    """Nobody holds the lock, so nobody trains."""
    running = record().with_segment(segment())
    running.write(tmp_path / "run.json")

    assert true_status(running, None) == "killed"
    assert overview_of(RunDirectory(tmp_path), lambda _: None).status == "killed"


def test_an_unreadable_run_does_not_hide_the_others(tmp_path):
    """A list says what is wrong with one run and goes on."""
    (tmp_path / "run.json").write_text("{")

    assert "is not JSON" in overview_of(RunDirectory(tmp_path), lambda _: None).problem


def test_a_runs_page_names_segments_and_changes(tmp_path):
    """One line a segment, and its changes below it."""
    shown = record().with_segment(segment()).closed("failed", 9)
    resumed = shown.with_segment(segment(2, from_step=5, D=1, changes=["config: batch.D: 2 -> 1"]))
    page = "\n".join(
        lines_of(RunDirectory(tmp_path), resumed.closed("finished", 200, 4), None, lambda _: None)
    )

    assert "segment 1: steps 0 to 9 on D = 2 (node7), failed" in page
    assert "segment 2: steps 5 to 200 on D = 1 (node7), finished, 4 steps proven" in page
    assert "  config: batch.D: 2 -> 1" in page


def test_a_record_is_replaced_not_edited():
    """Segments of an older record stay as they were."""
    before = record().with_segment(segment())
    before.closed("failed", 1)

    assert before == replace(before)
    assert before.last.why is None


def edited(document: dict, key: str, value: object) -> None:
    """Change one dotted key of a JSON document in place."""
    *parents, last = key.split(".")
    for name in parents:
        document = document[int(name)] if isinstance(document, list) else document[name]
    document[last] = value


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        ("fingerprint.preimages.config.T_tokens", 409600, "part config"),
        ("fingerprint.preimages.environment.torch", "2.14.0", "part environment"),
        ("fingerprint.parts.data", "0" * 64, "part data"),
        ("fingerprint.digest", "0" * 64, "the fingerprint 000000000000"),
        ("fingerprint.preimages", {}, "preimages"),
        ("fingerprint.parts", None, "parts"),
        ("segments.0.fingerprint", "0" * 64, "segment 1"),
        ("segments.0.parts.code", "0" * 64, "segment 1"),
        ("segments.0.preimages", {"code": {"a.py": "bb"}}, "segment 1"),
        ("segments.0.segment", 2, "segment 1"),
        ("steps", 100, "100 steps"),
    ],
)
def test_a_record_that_contradicts_itself_is_damaged(tmp_path, key, value, names):
    """A preimage edited with its digest left, the reverse, and what else run.json states twice."""
    path = tmp_path / "run.json"
    record().with_segment(segment()).write(path)
    document = json.loads(path.read_text())
    edited(document, key, value)
    path.write_text(json.dumps(document))

    with pytest.raises(DamagedError) as caught:
        read_record(path)
    assert names in caught.value.message
    assert str(caught.value.where) == str(path)
    assert overview_of(RunDirectory(tmp_path), lambda _: None).problem == caught.value.message
