"""What the tracked files say: links lead somewhere, no host of a registry, no path of a developer's machine."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>#]+)(?:#[^)\s]*)?(?:\s+\"[^\"]*\")?>?\)")
CODE_BLOCK = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)

REGISTRY_HOSTS = re.compile(
    r"\b(?:pypi\.(?:org|io)|files\.python"
    r"hosted|registry\.npm|registry\.yarn|deb\.debian|proxy\.golang|static\.crates|download\.pytorch"
    r"|repo\.maven|rubygems\.org|conda\.anaconda)",
    re.IGNORECASE,
)
MACHINE_PATHS = re.compile(r"(?<![\w./}$-])/(?:work|root|home/\w+|Users/\w+)(?:/|\b(?![\w-]))")


def texts(project_files: list[Path]) -> Iterator[tuple[Path, str]]:
    """(path, text) of every tracked text file."""
    for path in project_files:
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            yield path, content.decode("utf-8")


def lines_that_match(pattern: re.Pattern[str], text: str) -> list[int]:
    return [number for number, line in enumerate(text.splitlines(), start=1) if pattern.search(line)]


def dead_links(path: Path, text: str) -> list[str]:
    """Relative links of one Markdown file that lead nowhere, code blocks left out."""
    targets = LINK.findall(CODE_BLOCK.sub("", text))
    relative = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    return [target for target in relative if not (ROOT / path.parent / target).exists()]


def test_relative_links_lead_somewhere(project_files) -> None:
    """Every relative link of every Markdown file names a file that exists."""
    problems = [
        f"{path}: {target} does not exist: correct the link, or write the file"
        for path, text in texts(project_files)
        if path.suffix == ".md"
        for target in dead_links(path, text)
    ]

    assert not problems, "\n" + "\n".join(problems)


def test_no_registry_host_is_named(project_files) -> None:
    """Packages come from wherever the user's pip is told to look."""
    problems = [
        f"{path}:{line}: name the package, not the host"
        for path, text in texts(project_files)
        for line in lines_that_match(REGISTRY_HOSTS, text)
    ]

    assert not problems, "\n" + "\n".join(problems)


def test_no_path_of_a_machine_is_named(project_files) -> None:
    """No file speaks of directories that only a developer's machine has."""
    problems = [
        f"{path}:{line}: use a relative path"
        for path, text in texts(project_files)
        for line in lines_that_match(MACHINE_PATHS, text)
    ]

    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize("host", ["pypi" + ".org", "files.python" + "hosted.org", "registry." + "npmjs.org"])
def test_registry_hosts_are_found(host: str) -> None:
    """The pattern knows a host when it sees one."""
    assert lines_that_match(REGISTRY_HOSTS, f"--index-url https://{host}/simple") == [1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cd /" + "work/main", True),
        ('"/' + 'root/.cache"', True),
        ("/" + "home/alice/data", True),
        ("data/work/x", False),
        ("https://example.org/work/", False),
        ("the /workers endpoint", False),
    ],
)
def test_machine_paths_are_found(text: str, *, found: bool) -> None:
    """The pattern finds a developer's directory and nothing else."""
    assert (lines_that_match(MACHINE_PATHS, text) != []) is found


def test_dead_links_are_found() -> None:
    """A link to a missing file is found; one to this test, to a page, or inside code is not."""
    text = (
        "[a](missing.md) [b](test_tidy_text.py#x) [c](https://example.org) \n```\n[d](also_missing.md)\n```\n"
    )

    assert dead_links(Path("tests/some.md"), text) == ["missing.md"]
