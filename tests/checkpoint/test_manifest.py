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
        "manifest.json has the format 'llmrun-checkpoint/2'; this version reads llmrun-checkpoint/1",
    ),
    "no format": (lambda d: d.pop("format"), "has the format None"),
    "a key missing": (lambda d: d.pop("chain"), "the document lacks 'chain'"),
    "an unknown key": (lambda d: d.update(surprise=1), "the document has the unknown key 'surprise'"),
    "negative step": (lambda d: d.update(step=-1), "step is -1, not a whole number from 0 to 2^63-1"),
    "fractional step": (lambda d: d.update(step=1.5), "step is 1.5, not a whole number"),
    "true for a step": (lambda d: d.update(step=True), "step is True, not a whole number"),
    "absurd tokens": (lambda d: d.update(tokens=2**63), "tokens is 9223372036854775808, not a whole number"),
    "another step": (lambda d: d.update(step=24), "manifest.json is of step 24"),
    "upper-case hex": (lambda d: d.update(chain="A" * 64), "not 64 lower-case hex digits"),
    "short fingerprint": (lambda d: d.update(fingerprint="ab"), "fingerprint is 'ab', not 64 lower-case hex"),
    "parts as a list": (lambda d: d.update(parts=[]), "parts is [], not an object"),
    "odd part": (
        lambda d: d["parts"].update({"../x": HEX64}),
        "a part is '../x', not a part of a fingerprint",
    ),
    "traversal": (
        lambda d: rename_file(d, "../trainer.json"),
        "manifest.json lists the file '../trainer.json', which is no file of a checkpoint",
    ),
    "absolute path": (lambda d: rename_file(d, "/etc/passwd"), "lists the file '/etc/passwd'"),
    "a file too few": (lambda d: d["files"].pop("trainer.json"), "lists 5 files, 6 belong to 2 ranks"),
    "no files": (lambda d: d.update(files={}), "does not say by its files how many ranks wrote it"),
    "negative size": (lambda d: d["files"]["trainer.json"].update(bytes=-1), "file trainer.json bytes is -1"),
    "another size": (lambda d: d["files"]["trainer.json"].update(bytes=1), "bytes, 1 were written"),
    "another sha256": (
        lambda d: d["files"]["trainer.json"].update(sha256=HEX64),
        "trainer.json has one sha256 in SHA256SUMS and another in the manifest",
    ),
    "unknown kind": (lambda d: tensor(d).update(kind="pickle"), "kind is 'pickle', not parameter, buffer"),
    "odd slot": (
        lambda d: tensor(d).update(kind="optimizer/../x"),
        "kind is 'optimizer/../x', not parameter",
    ),
    "unknown type": (lambda d: tensor(d).update(dtype="F33"), "dtype is 'F33', not a known element type"),
    "type as a list": (
        lambda d: tensor(d).update(dtype=["F32"]),
        "dtype is ['F32'], not a known element type",
    ),
    "absurd shape": (lambda d: tensor(d).update(shape=[2**40, 2**40]), "larger than any file"),
    "many dimensions": (lambda d: tensor(d).update(shape=[1] * 17), "has 17 dimensions, 16 are allowed"),
    "negative extent": (lambda d: tensor(d).update(shape=[-7, -5]), "shape is -7, not a whole number"),
    "wrong shape": (
        lambda d: tensor(d).update(shape=[7, 6]),
        "has 35 elements in its pieces, 42 in its shape",
    ),
    "short digest": (lambda d: tensor(d).update(digest="00"), "digest is '00', not 16 lower-case hex digits"),
    "pieces missing": (drop_piece, "has 17 elements in its pieces, 35 in its shape"),
    "pieces swapped": (swap_pieces, "has 18 elements from 17 on"),
    "empty piece": (lambda d: tensor(d)["pieces"][0].update(count=0), "has 0 elements from 0 on"),
    "overlap": (lambda d: tensor(d)["pieces"][1].update(start=16), "expected some from 17 on"),
    "gap": (lambda d: tensor(d)["pieces"][1].update(start=18), "expected some from 17 on"),
    "two pieces in one file": (
        lambda d: tensor(d)["pieces"][1].update(file="model-00001-of-00002.safetensors"),
        "has its pieces out of order at model-00001-of-00002.safetensors",
    ),
    "piece in a foreign file": (
        lambda d: tensor(d)["pieces"][0].update(file="../x"),
        "has a piece in '../x'",
    ),
    "piece in the wrong group": (
        lambda d: tensor(d)["pieces"][0].update(file="optimizer-00001-of-00002.safetensors"),
        "which is no model file",
    ),
    "piece in no file": (lambda d: tensor(d)["pieces"][0].update(file=None), "has a piece in None"),
    "another cut": (
        lambda d: tensor(d).update(
            pieces=[{"file": "model-00001-of-00002.safetensors", "start": 0, "count": 35}]
        ),
        "model-00001-of-00002.safetensors does not hold tensor 'model.embed_tokens.weight' as the manifest says",
    ),
    "a tensor missing": (
        lambda d: d["tensors"].pop(NAME),
        "does not hold tensor 'model.embed_tokens.weight'",
    ),
    "another name": (lambda d: rename_tensor(d, "w"), "does not hold tensor 'model.embed_tokens.weight'"),
    "a name with a space": (lambda d: rename_tensor(d, "a b"), "a tensor's name is 'a b'"),
    "a name with an escape": (lambda d: rename_tensor(d, "\x1b[2Jx"), r"a tensor's name is '\x1b[2Jx'"),
    "a name of a surrogate": (lambda d: rename_tensor(d, "\ud800"), r"a tensor's name is '\ud800'"),
    "a long name": (lambda d: rename_tensor(d, "w" * 513), "a tensor's name is 'www"),
    "tensors as a list": (lambda d: d.update(tensors=[]), "tensors is [], not an object"),
}


@pytest.mark.parametrize("animal", WRONG)
def test_a_wrong_manifest_is_refused(states, tmp_path, animal):
    """Each wrong manifest under a fitting SHA256SUMS is refused with one line that says why."""
    change, message = WRONG[animal]
    path = states.save(tmp_path, 16)
    states.resign(path, change)
    damages = verify_files(path)

    assert len(damages) == 1
    assert message in str(damages[0])
    assert not {"\n", "\x1b"} & set(str(damages[0]))


def test_another_shape_of_the_same_size_is_refused(states, tmp_path):
    """A whole tensor stands in its file in its real shape, and the manifest has to say the same."""
    path = states.save(tmp_path, 16, 1)
    states.resign(path, lambda document: tensor(document).update(shape=[5, 7]))

    assert "does not hold tensor 'model.embed_tokens.weight' as" in str(verify_files(path)[0])


TEXTS = {
    "nothing": ("", "manifest.json is not JSON"),
    "a list": ("[]", "the document is [], not an object"),
    "NaN": ('{"format": NaN}', "manifest.json holds NaN, which is not JSON"),
    "infinity": ('{"format": -Infinity}', "holds -Infinity, which is not JSON"),
    "a float without end": ('{"format": 1e999}', "holds the number '1e999', which is too large"),
    "an integer without end": ('{"format": ' + "9" * 5000 + "}", "holds a number of too many digits"),
    "a key twice": ('{"format": 1, "format": 1}', "manifest.json names 'format' twice"),
    "nesting without end": ("[" * 200_000, "manifest.json is nested too deeply"),
    "half": ('{"format": "llmrun-checkpoint/1", ', "manifest.json is not JSON"),
}


@pytest.mark.parametrize("animal", TEXTS)
def test_a_manifest_that_is_not_sound_json_is_refused(states, tmp_path, animal):
    """JSON with surprises is refused with one line."""
    text, message = TEXTS[animal]
    path = states.save(tmp_path, 16)
    states.resign_text(path, text)
    (damage,) = verify_files(path)

    assert message in str(damage)
    assert len(str(damage)) < 250


def test_a_tensor_named_twice_is_refused(states, tmp_path):
    """A duplicate tensor in the text of the manifest is refused, not silently overwritten."""
    path = states.save(tmp_path, 16)
    document = json.loads((path / "manifest.json").read_text())
    row = json.dumps(tensor(document))
    text = json.dumps(document).replace(f'"{NAME}": ', f'"{NAME}": {row}, "{NAME}": ', 1)
    states.resign_text(path, text)

    assert [damage.message for damage in verify_files(path)] == [f"names '{NAME}' twice"]


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
    ("changed", "message"),
    [
        ({}, None),
        ({"val_ppl": "12"}, "val_ppl is '12', not a number"),
        ({"best_val_ppl": True}, "best_val_ppl is True, not a number"),
        ({"best_saved_step": -1}, "best_saved_step is -1, not a whole number from 0 to 2^63-1"),
        ({"optimizer": {}}, "optimizer step is None, not a whole number from 0 to 2^63-1"),
        ({"metrics": 3}, "metrics is 3, not an object"),
        ({"metrics": {"loss_smooth": {}}}, "loss_smooth lacks 'decay'"),
    ],
)
def test_what_a_resume_reads_of_the_trainer_is_checked(states, tmp_path, changed, message):
    """A stranger's trainer.json with a fitting sha256 is damage where a resume could not use it."""
    path = states.save(tmp_path, 16)
    (path / "trainer.json").write_text(json.dumps(OWN | changed))
    states.resign(path)

    assert [damage.message for damage in verify_files(path)] == ([] if message is None else [message])


def test_sums_that_name_other_files_than_the_manifest_are_refused(states, tmp_path):
    """A file that SHA256SUMS lists beyond those of a checkpoint is refused, although its bytes fit."""
    path = states.save(tmp_path, 16)
    (path / "extra").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    sums = path / "SHA256SUMS"
    sums.write_text(f"{empty}  extra\n{sums.read_text()}")

    assert str(verify_files(path)[0]) == "step-00000016/SHA256SUMS does not list the files of a checkpoint"


def test_a_manifest_of_another_checkpoint_is_refused(states, tmp_path):
    """The manifest of a checkpoint by other ranks, signed anew, is refused."""
    path = states.save(tmp_path / "a", 16, 2)
    other = states.save(tmp_path / "b", 16, 3)
    sums = dict(reversed(line.split("  ")) for line in (path / "SHA256SUMS").read_text().splitlines())
    states.resign_text(path, (other / "manifest.json").read_text(), sums)

    assert "manifest.json lists the files of 3 ranks" in str(verify_files(path)[0])
