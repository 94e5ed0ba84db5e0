"""Where a run's tokenizer is found, wherever `llmrun sample` is called."""

import json
import shutil

import pytest

from llmrun.cli.app import run
from llmrun.data.prepare import prepare
from llmrun.errors import InputError
from llmrun.run.record import read_record
from llmrun.sample.generate import Sampling, find_dataset, load_generator


@pytest.fixture
def trained(driver, pool, dataset, tmp_path):
    """A run of two steps whose config names its dataset by a relative path."""
    (tmp_path / "first").symlink_to(dataset)
    driver.train(pool, "demo", "data.path=first", until=2)
    return driver


def directory_of(driver):
    """The dataset that sampling takes."""
    return find_dataset(driver.run("demo"), read_record(driver.run("demo").record_file))[0]


def test_from_any_working_directory(trained, tmp_path, monkeypatch, dataset, capsys):
    """The last segment's absolute path counts, not where the user stands; names are looked up in --runs-dir."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    line = [
        "sample",
        "demo",
        "--runs-dir",
        str(tmp_path / "runs"),
        "--tokens",
        "3",
        "--prompt",
        "the ",
        "--json",
    ]

    assert run(line, as_json=True) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["step"], answer["text"][:4]) == (2, "the ")
    assert directory_of(trained) == dataset.resolve()


def test_the_same_seed_writes_the_same_text(trained):
    """At any temperature, and another seed writes another."""
    generator = load_generator(trained.run("demo"))
    one, again, other = (generator.generate("a", Sampling(seed, 40, 1.0, 0)) for seed in (0, 0, 1))

    assert one == again != other


def test_a_data_path_that_was_set_for_a_segment_counts(trained, pool, dataset, tmp_path):
    """`resume --set data.path=…` moved the data: the old place may be gone."""
    shutil.copytree(dataset, tmp_path / "second")
    trained.resume(pool, "demo", "data.path=second", until=3)
    (tmp_path / "first").unlink()

    assert directory_of(trained) == tmp_path / "second"


def test_where_the_absolute_path_is_gone_the_written_one_is_tried(trained, dataset, tmp_path, monkeypatch):
    """A project moved as a whole is found from where the user stands."""
    worker_spec = trained.run("demo").worker_spec_file(1)
    document = json.loads(worker_spec.read_text())
    worker_spec.write_text(json.dumps({**document, "data_path": "/nowhere/first"}))
    assert directory_of(trained) == dataset.resolve()

    record = json.loads(trained.run("demo").record_file.read_text())
    trained.run("demo").record_file.write_text(json.dumps({**record, "working_directory": "/nowhere"}))
    assert directory_of(trained) == dataset.resolve()


def test_a_dataset_that_is_gone_is_said_with_every_place(trained, tmp_path):
    """Exit 2, where it was looked for, what to do."""
    worker_spec = trained.run("demo").worker_spec_file(1)
    document = json.loads(worker_spec.read_text())
    worker_spec.write_text(json.dumps({**document, "data_path": "/nowhere/first"}))
    (tmp_path / "first").unlink()
    with pytest.raises(InputError, match="dataset of demo") as caught:
        load_generator(trained.run("demo"))

    assert caught.value.caused_by == ("there is no /nowhere/first", f"there is no {tmp_path / 'first'}")


def test_another_tokenizer_in_its_place_is_refused(trained, tmp_path):
    """Its numbers would be read as other words."""
    (tmp_path / "words.txt").write_text("some words to learn, and some more of them\n" * 400)
    (tmp_path / "first").unlink()
    prepare([tmp_path / "words.txt"], tmp_path / "bpe", "bpe", vocab_size=300, val_fraction=0.1)
    worker_spec = trained.run("demo").worker_spec_file(1)
    document = json.loads(worker_spec.read_text())
    worker_spec.write_text(json.dumps({**document, "data_path": str(tmp_path / "bpe")}))

    with pytest.raises(InputError, match="tokenizer that demo was trained with"):
        load_generator(trained.run("demo"))


def test_another_model_in_the_orders_is_damage(trained, tmp_path, capsys):
    """The weights would fit, and the text would be another model's."""
    worker_spec = trained.run("demo").worker_spec_file(1)
    document = json.loads(worker_spec.read_text())
    document["config"]["model"]["norm_eps"] *= 2
    worker_spec.write_text(json.dumps(document))
    code = run(["sample", "demo", "--runs-dir", str(tmp_path / "runs"), "--tokens", "3", "--prompt", "a"])

    assert code == 1
    assert "norm_eps" in capsys.readouterr().err
