"""Manifests of strangers: SHA256SUMS fits, and the content is still refused with one line."""

import json

import pytest

from llmrun.storage.checkpoint.verification import verify_files

NAME = "model.embed_tokens.weight"
HEX64 = "0" * 64


def tensor(document: dict) -> dict:
    return document["tensors"][NAME]


def rename_file(document: dict, new: str) -> None:
    document["files"][new] = document["files"].pop("trainer.json")


def rename_tensor(document: dict, new: str) -> None:
    document["tensors"][new] = document["tensors"].pop(NAME)


def drop_piece(document: dict) -> None:
    tensor(document)["pieces"].pop()


def swap_pieces(document: dict) -> None:
    tensor(document)["pieces"].reverse()


WRONG = {
    "another format": (
        lambda d: d.update(format="llmrun-checkpoint/2"),
        "'llmrun-checkpoint/2'",
    ),
    "no format": (lambda d: d.pop("format"), "None"),
    "a key missing": (lambda d: d.pop("chain"), "'chain'"),
    "an unknown key": (lambda d: d.update(surprise=1), "'surprise'"),
    "negative step": (lambda d: d.update(step=-1), "step "),
    "fractional step": (lambda d: d.update(step=1.5), "step "),
    "true for a step": (lambda d: d.update(step=True), "step "),
    "absurd tokens": (lambda d: d.update(tokens=2**63), "tokens "),
    "another step": (lambda d: d.update(step=24), "24"),
    "upper-case hex": (lambda d: d.update(chain="A" * 64), "chain "),
    "short fingerprint": (lambda d: d.update(fingerprint="ab"), "fingerprint "),
    "parts as a list": (lambda d: d.update(parts=[]), "parts "),
    "odd part": (
        lambda d: d["parts"].update({"../x": HEX64}),
        "'../x'",
    ),
    "traversal": (
        lambda d: rename_file(d, "../trainer.json"),
        "'../trainer.json'",
    ),
    "absolute path": (lambda d: rename_file(d, "/etc/passwd"), "'/etc/passwd'"),
    "a file too few": (lambda d: d["files"].pop("trainer.json"), "6 files"),
    "no files": (lambda d: d.update(files={}), "files"),
    "negative size": (lambda d: d["files"]["trainer.json"].update(bytes=-1), "file trainer.json bytes "),
    "another size": (lambda d: d["files"]["trainer.json"].update(bytes=1), "trainer.json"),
    "another sha256": (
        lambda d: d["files"]["trainer.json"].update(sha256=HEX64),
        "trainer.json",
    ),
    "unknown kind": (lambda d: tensor(d).update(kind="pickle"), "'pickle'"),
    "odd slot": (
        lambda d: tensor(d).update(kind="optimizer/../x"),
        "'optimizer/../x'",
    ),
    "unknown type": (lambda d: tensor(d).update(dtype="F33"), "'F33'"),
    "type as a list": (
        lambda d: tensor(d).update(dtype=["F32"]),
        "dtype ",
    ),
    "absurd shape": (lambda d: tensor(d).update(shape=[2**40, 2**40]), "shape "),
    "many dimensions": (lambda d: tensor(d).update(shape=[1] * 17), "shape "),
    "negative extent": (lambda d: tensor(d).update(shape=[-7, -5]), "shape "),
    "wrong shape": (
        lambda d: tensor(d).update(shape=[7, 6]),
        "must have 42 elements in its pieces, got 35",
    ),
    "short digest": (lambda d: tensor(d).update(digest="00"), "digest "),
    "pieces missing": (drop_piece, "must have 35 elements in its pieces, got 17"),
    "pieces swapped": (swap_pieces, "got 18 elements from 17 on"),
    "empty piece": (lambda d: tensor(d)["pieces"][0].update(count=0), "got 0 elements from 0 on"),
    "overlap": (lambda d: tensor(d)["pieces"][1].update(start=16), "must go on at element 17 "),
    "gap": (lambda d: tensor(d)["pieces"][1].update(start=18), "must go on at element 17 "),
    "two pieces in one file": (
        lambda d: tensor(d)["pieces"][1].update(file="model-00001-of-00002.safetensors"),
        "out of order at model-00001-of-00002.safetensors",
    ),
    "piece in a foreign file": (
        lambda d: tensor(d)["pieces"][0].update(file="../x"),
        "'../x'",
    ),
    "piece in the wrong group": (
        lambda d: tensor(d)["pieces"][0].update(file="optimizer-00001-of-00002.safetensors"),
        "'optimizer-00001-of-00002.safetensors'",
    ),
    "piece in no file": (lambda d: tensor(d)["pieces"][0].update(file=None), "None"),
    "another cut": (
        lambda d: tensor(d).update(
            pieces=[{"file": "model-00001-of-00002.safetensors", "start": 0, "count": 35}]
        ),
        "model-00001-of-00002.safetensors does not hold tensor 'model.embed_tokens.weight'",
    ),
    "a tensor missing": (
        lambda d: d["tensors"].pop(NAME),
        "does not hold tensor 'model.embed_tokens.weight'",
    ),
    "another name": (lambda d: rename_tensor(d, "w"), "does not hold tensor 'model.embed_tokens.weight'"),
    "a name with a space": (lambda d: rename_tensor(d, "a b"), "'a b'"),
    "a name with an escape": (lambda d: rename_tensor(d, "\x1b[2Jx"), r"'\x1b[2Jx'"),
    "a name of a surrogate": (lambda d: rename_tensor(d, "\ud800"), r"'\ud800'"),
    "a long name": (lambda d: rename_tensor(d, "w" * 513), "'www"),
    "tensors as a list": (lambda d: d.update(tensors=[]), "tensors "),
}


OTHER_KINDS = {
    "another step": "contradiction",
    "another size": "size",
    "another sha256": "contradiction",
    "another cut": "contradiction",
    "a tensor missing": "contradiction",
    "another name": "contradiction",
}
"""Kinds of the damage that is not of the kind `format`."""


@pytest.mark.parametrize("animal", WRONG)
def test_a_wrong_manifest_is_refused(states, tmp_path, animal):
    """Each wrong manifest under a fitting SHA256SUMS is refused with one line that names what is wrong."""
    change, named = WRONG[animal]
    path = states.save(tmp_path, 16)
    states.resign(path, change)
    damages = verify_files(path)

    assert len(damages) == 1
    assert damages[0].kind == OTHER_KINDS.get(animal, "format")
    assert named in str(damages[0])
    assert not {"\n", "\x1b"} & set(str(damages[0]))


def test_another_shape_of_the_same_size_is_refused(states, tmp_path):
    """A whole tensor stands in its file in its real shape, and the manifest has to say the same."""
    path = states.save(tmp_path, 16, 1)
    states.resign(path, lambda document: tensor(document).update(shape=[5, 7]))

    damage = verify_files(path)[0]
    assert damage.kind == "contradiction"
    assert "'model.embed_tokens.weight'" in damage.message


TEXTS = {
    "nothing": ("", "is not JSON"),
    "a list": ("[]", "[]"),
    "NaN": ('{"format": NaN}', "NaN"),
    "infinity": ('{"format": -Infinity}', "-Infinity"),
    "a float without end": ('{"format": 1e999}', "'1e999'"),
    "an integer without end": ('{"format": ' + "9" * 5000 + "}", "number"),
    "a key twice": ('{"format": 1, "format": 1}', "'format'"),
    "nesting without end": ("[" * 200_000, "nested"),
    "half": ('{"format": "llmrun-checkpoint/1", ', "is not JSON"),
}


@pytest.mark.parametrize("animal", TEXTS)
def test_a_manifest_that_is_not_sound_json_is_refused(states, tmp_path, animal):
    """JSON with surprises is refused with one line."""
    text, named = TEXTS[animal]
    path = states.save(tmp_path, 16)
    states.resign_text(path, text)
    (damage,) = verify_files(path)

    assert (damage.file, damage.kind) == ("manifest.json", "format")
    assert named in damage.message
    assert len(str(damage)) < 250


def test_a_tensor_named_twice_is_refused(states, tmp_path):
    """A duplicate tensor in the text of the manifest is refused, not silently overwritten."""
    path = states.save(tmp_path, 16)
    document = json.loads((path / "manifest.json").read_text())
    row = json.dumps(tensor(document))
    text = json.dumps(document).replace(f'"{NAME}": ', f'"{NAME}": {row}, "{NAME}": ', 1)
    states.resign_text(path, text)

    (damage,) = verify_files(path)
    assert (damage.file, damage.kind) == ("manifest.json", "format")
    assert f"'{NAME}'" in damage.message


def test_a_manifest_that_is_not_utf8_is_refused(states, tmp_path):
    """Bytes that are no text are refused with their place."""
    path = states.save(tmp_path, 16)
    states.resign_text(path, "{}")
    (path / "manifest.json").write_bytes(b"\xff{}")

    assert verify_files(path)


def test_a_trainer_file_that_is_not_an_object_is_refused(states, tmp_path):
    """trainer.json with a fitting sha256 has to be an object of finite values."""
    path = states.save(tmp_path, 16)
    for text in ("[]", '{"loss": NaN}'):
        (path / "trainer.json").write_text(text)
        states.resign(path)

        assert [damage.file for damage in verify_files(path)] == ["trainer.json"]


OWN = {
    "format": "llmrun-trainer/1",
    "val_ppl": 12.5,
    "best_val_ppl": None,
    "best_step": None,
    "best_saved_step": 8,
    "optimizer": {"step": 16},
    "metrics": {"loss_smooth": {"decay": 0.98, "total": 1.0, "weight": 1}},
}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, None),
        ({"val_ppl": "12"}, "val_ppl "),
        ({"best_val_ppl": True}, "best_val_ppl "),
        ({"best_saved_step": -1}, "best_saved_step "),
        ({"optimizer": {}}, "optimizer step "),
        ({"metrics": 3}, "metrics "),
        ({"metrics": {"loss_smooth": {}}}, "loss_smooth "),
    ],
)
def test_what_a_resume_reads_of_the_trainer_is_checked(states, tmp_path, changed, named):
    """A stranger's trainer.json with a fitting sha256 is damage if a resume could not use it."""
    path = states.save(tmp_path, 16)
    (path / "trainer.json").write_text(json.dumps(OWN | changed))
    states.resign(path)

    damages = verify_files(path)
    assert [(damage.file, damage.kind) for damage in damages] == [("trainer.json", "format")] * (
        named is not None
    )
    assert all(damage.message.startswith(named) for damage in damages)


def test_sums_that_name_other_files_than_the_manifest_are_refused(states, tmp_path):
    """A file that SHA256SUMS lists beyond those of a checkpoint is refused, although its bytes fit."""
    path = states.save(tmp_path, 16)
    (path / "extra").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    sums = path / "SHA256SUMS"
    sums.write_text(f"{empty}  extra\n{sums.read_text()}")

    damage = verify_files(path)[0]
    assert (damage.file, damage.kind) == ("SHA256SUMS", "format")


def test_a_manifest_of_another_checkpoint_is_refused(states, tmp_path):
    """The manifest of a checkpoint by other ranks, with fitting sums, is refused."""
    path = states.save(tmp_path / "a", 16, 2)
    other = states.save(tmp_path / "b", 16, 3)
    sums = dict(reversed(line.split("  ")) for line in (path / "SHA256SUMS").read_text().splitlines())
    states.resign_text(path, (other / "manifest.json").read_text(), sums)

    damage = verify_files(path)[0]
    assert (damage.file, damage.kind) == ("manifest.json", "contradiction")
