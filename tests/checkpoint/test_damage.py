"""The zoo of damage: whatever happens to a checkpoint's bytes is found, named, and passed over."""

import os
import random
import shutil
from pathlib import Path

import pytest

from llmrun.errors import InputError
from llmrun.storage.checkpoint.errors import CheckpointDamage, Damage
from llmrun.storage.checkpoint.reader import open_checkpoint
from llmrun.storage.checkpoint.verification import newest_sound, open_verified, verify_files


@pytest.fixture
def saved(states, tmp_path) -> Path:
    """The newer of two checkpoints."""
    states.save(tmp_path, 8)
    return states.save(tmp_path, 16)


def passed_over(saved: Path) -> list[Damage]:
    """The damage of `saved` that the search for the newest sound checkpoint reports, having found the older one."""
    newest, damages = newest_sound(saved.parent)

    assert newest is not None
    assert newest.step == 8
    assert damages

    assert all("\n" not in str(damage) for damage in damages)
    return damages


def flip(path: Path, position: int, bit: int) -> None:
    """Flip one bit in place."""
    with path.open("r+b") as file:
        file.seek(position)
        octet = file.read(1)[0]
        file.seek(position)
        file.write(bytes([octet ^ (1 << bit)]))


def test_every_bit_of_the_root_is_watched(saved):
    """Each of the 8 bits of each byte of SHA256SUMS, flipped, is damage."""
    root = saved / "SHA256SUMS"
    content = root.read_bytes()
    for position in range(0, len(content), 3):
        for bit in range(8):
            root.write_bytes(
                content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :]
            )

            assert verify_files(saved)


def test_every_truncation_is_found(saved):
    """Each file, cut at seeded places, is named."""
    dice = random.Random(7)
    for file in sorted(saved.iterdir()):
        content = file.read_bytes()
        for length in (0, 1, len(content) - 1, *(dice.randrange(len(content)) for _ in range(5))):
            file.write_bytes(content[:length])

            assert verify_files(saved)
            assert any(damage.file == file.name for damage in passed_over(saved))

        file.write_bytes(content)


def test_every_removal_is_found(saved):
    """Each file, removed, is named as missing."""
    for file in sorted(saved.iterdir()):
        content = file.read_bytes()
        file.unlink()

        damage = passed_over(saved)[0]
        assert (damage.checkpoint, damage.file, damage.kind) == (saved.name, file.name, "missing")

        file.write_bytes(content)


def test_appended_bytes_are_found(saved):
    """Each file with one byte more is named."""
    for file in sorted(saved.iterdir()):
        content = file.read_bytes()
        file.write_bytes(content + b"\n")

        assert any(damage.file == file.name for damage in passed_over(saved))

        file.write_bytes(content)


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", "model-00003-of-00002.safetensors", "line\nbreak"])
def test_a_file_too_many_is_found(saved, name):
    """A file that does not belong there is named, on one line."""
    (saved / name).write_bytes(b"")
    (damage,) = passed_over(saved)

    assert damage.kind == "unexpected"
    assert damage.file == (name if name.isprintable() else ascii(name))


def test_two_files_swapped_are_found(saved):
    """Two files of equal form under each other's name are both named."""
    one, two = (saved / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)

    assert {damage.file for damage in verify_files(saved)} == {one.name, two.name}


def test_a_checkpoint_under_another_step_is_found(saved):
    """A directory renamed to another step is damage: its manifest says which step it is."""
    saved.rename(saved.parent / "step-00000024")

    (damage,) = passed_over(saved)
    assert (damage.checkpoint, damage.file, damage.kind) == (
        "step-00000024",
        "manifest.json",
        "contradiction",
    )


def test_a_copy_under_any_other_name_is_sound(saved, tmp_path):
    """A checkpoint may be copied anywhere, under any name that states no step."""
    shutil.copytree(saved, tmp_path / "my copy")

    assert verify_files(tmp_path / "my copy") == []


def test_a_link_in_place_of_a_file_is_refused(saved, tmp_path):
    """A symbolic link is refused, although the bytes behind it are right."""
    file = saved / "model-00001-of-00002.safetensors"
    outside = tmp_path / "outside"
    shutil.move(file, outside)
    file.symlink_to(outside)

    assert passed_over(saved)[0].kind == "link"


def test_a_link_in_place_of_the_directory_is_refused(saved, tmp_path):
    """A final name that is a symbolic link is refused."""
    saved.rename(tmp_path / "elsewhere")
    saved.symlink_to(tmp_path / "elsewhere")

    assert passed_over(saved)[0].kind == "link"


def test_a_pipe_in_place_of_a_file_does_not_hang(saved):
    """A named pipe is refused at once; opening it would wait for a writer."""
    file = saved / "trainer.json"
    file.unlink()
    os.mkfifo(file)

    assert [(damage.file, damage.kind) for damage in passed_over(saved)] == [("trainer.json", "unreadable")]


def test_a_directory_in_place_of_a_file_is_refused(saved):
    """A directory under a file's name is refused."""
    file = saved / "rng.safetensors"
    file.unlink()
    file.mkdir()

    assert [(damage.file, damage.kind) for damage in passed_over(saved)] == [
        ("rng.safetensors", "unreadable")
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_named(saved):
    """A file that may not be read is named with the reason."""
    (saved / "trainer.json").chmod(0)

    assert [(damage.file, damage.kind) for damage in passed_over(saved)] == [("trainer.json", "unreadable")]


def test_an_empty_directory_is_damage(saved):
    """A final name without files in it is never taken for a checkpoint."""
    for file in saved.iterdir():
        file.unlink()

    assert [(damage.file, damage.kind) for damage in passed_over(saved)] == [("SHA256SUMS", "missing")]


def test_where_none_is_sound_all_damage_is_told(saved):
    """Without a sound checkpoint the search returns none and names a file of each."""
    for path in saved.parent.iterdir():
        (path / "trainer.json").write_bytes(b"")
    newest, damages = newest_sound(saved.parent)

    assert newest is None
    assert [(damage.checkpoint, damage.file) for damage in damages] == [
        ("step-00000016", "trainer.json"),
        ("step-00000008", "trainer.json"),
    ]


def test_all_damaged_files_are_named_at_once(saved):
    """The error lists each damaged file, not only the first, and exits with 1."""
    for name in ("trainer.json", "rng.safetensors"):
        flip(saved / name, 5, 0)
    with pytest.raises(CheckpointDamage) as raised:
        open_verified(saved)

    assert {damage.file for damage in raised.value.damages} == {"trainer.json", "rng.safetensors"}
    assert raised.value.exit_code == 1
    assert len(raised.value.caused_by) == 1


def test_opening_finds_a_changed_size_without_reading_all(saved):
    """The structure alone tells a file that is too short."""
    file = saved / "optimizer-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-4])

    with pytest.raises(CheckpointDamage) as raised:
        open_checkpoint(saved)
    assert [(damage.file, damage.kind) for damage in raised.value.damages] == [(file.name, "size")]


def test_a_file_cut_after_opening_is_damage(saved):
    """Reading past the end of a file that shrank meanwhile is damage, not garbage."""
    checkpoint = open_checkpoint(saved)
    piece = checkpoint.manifest.tensors["model.embed_tokens.weight"].pieces[0]
    file = saved / piece.file
    file.write_bytes(file.read_bytes()[:-60])

    with pytest.raises(CheckpointDamage) as raised:
        [checkpoint.read(name) for name in checkpoint.headers[piece.file]]
    assert [(damage.file, damage.kind) for damage in raised.value.damages] == [(file.name, "size")]


def test_a_tensor_that_is_not_there_is_said(saved):
    """Asking for an unknown tensor names it."""
    with pytest.raises(CheckpointDamage, match=r"manifest.json has no tensor 'lm_head.weight'"):
        open_checkpoint(saved).read("lm_head.weight")


def test_a_missing_directory_is_wrong_input(tmp_path):
    """No directory at all is not damage but wrong input."""
    with pytest.raises(InputError, match=r"step-00000001"):
        open_checkpoint(tmp_path / "step-00000001")
    with pytest.raises(InputError, match=r"step-00000001"):
        verify_files(tmp_path / "step-00000001")
