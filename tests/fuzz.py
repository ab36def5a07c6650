"""Throws changed inputs at what reads files, and keeps those that end in a traceback.

  python -m tests.fuzz manifest --minutes=10
  python -m tests.fuzz records --minutes=10
  python -m tests.fuzz config --minutes=10

and likewise `pth`, `safetensors` and `keras`, the weights that a run may start from.
An input may be read or answered with a UserError. All others are written to --findings;
those that have been mended stay as cases of `test_any_input.py`.
"""

import argparse
import collections
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crl_jax import cli, config_check
from crl_jax import config as config_lib
from crl_jax.data import manifest, records
from crl_jax.errors import UserError
from tests import fuzz_weights

PROJECT = Path(__file__).parents[1]

MANIFEST = (
    "file,split,noun,adjective\n"
    "a.jpg,train,cat,happy\n"
    'b.jpg,train,"big, dog",sad\n'
    "sub/c.jpg,val,cat,\n"
    'd.jpg,train,"a ""b""",happy\n'
    "é 図.jpg,train,katze & <b>,sad\n"
)
TOKENS = [
    *(b",", b'"', b'""', b"\n", b"\r\n", b"\r", b"\0", b"\xef\xbb\xbf", b"\xff", b";"),
    *(b"../", b"/", b"\\", b"C:\\", b"file", b"split", b"train", b"val", b"noun", b" "),
    *("\u2028é\u202e\ud7ff\U0001f600".encode(), b"joint", b"image", b"9" * 40, b"\t"),
    *(
        b"(",
        b")",
        b"[",
        b"{",
        b"-1",
        b"1e999",
        b"nan",
        b"True",
        b"0x10",
        b"*",
        b"=",
        b".",
    ),
    *(b"\xff" * 8, b"\0" * 8, b"\0" * 7 + b"\x80", b"\x01" + b"\0" * 7),
]


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns some bytes with a few random changes."""
    for _ in range(rng.integers(1, 6)):
        a, b = sorted(rng.integers(0, len(content) + 1, 2).tolist())
        b = min(b, a + int(rng.integers(1, 30)))
        match rng.integers(6):
            case 0:
                content = content[:a] + content[b:]
            case 1:
                content = content[:a] + TOKENS[rng.integers(len(TOKENS))] + content[a:]
            case 2:
                content = content[:a] + TOKENS[rng.integers(len(TOKENS))] + content[b:]
            case 3:
                content = content[:b] + content[a:b] + content[b:]
            case 4:
                content = content[:a]
            case 5 if a < len(content):
                bit = bytes([content[a] ^ (1 << rng.integers(8))])
                content = content[:a] + bit + content[a + 1 :]
    return content


def manifest_reader(folder: Path) -> tuple[bytes, Callable[[bytes], object]]:
    """Returns a good manifest, and a function that reads one."""
    (folder / "sub").mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg", "d.jpg", "é 図.jpg"):
        (folder / name).write_bytes(b"0")
    path = folder / "labels.csv"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        found = manifest.read_manifest(path)
        for row in range(len(found.files)):
            found.example(row)
        assert all(
            (folder / file).resolve().is_relative_to(folder) for file in found.files
        )

    return MANIFEST.encode(), read


def record_reader(folder: Path) -> tuple[bytes, Callable[[bytes], object]]:
    """Returns a TFRecord file, and a function that reads one."""
    path = folder / "a.tfrecord"
    good = b""
    for length in (0, 3, 40, 200):
        record, header = bytes(range(length)), length.to_bytes(8, "little")
        for part in (header, record):
            good += part + records._masked_crc(part).to_bytes(4, "little")

    class Split:
        class _Instruction:
            filename, skip, take = str(path), 0, -1

        file_instructions = (_Instruction,)

    written = [bytes(range(length)) for length in (0, 3, 40, 200)]

    def read(content: bytes) -> None:
        path.write_bytes(content)
        records._spans.cache_clear()
        found = records.Records(Split)
        assert all(record in written for record in found.read(range(len(found))))

    return good, read


def config_reader(folder: Path) -> tuple[bytes, Callable[[bytes], object]]:
    """Returns overrides of a config, and a function that reads them."""
    del folder
    default = config_lib.default()
    lines = [f"{name}={value}" for name, value in config_lib.fields(default)]
    lines += ["tasks.noun.weight=0.5", "data.tasks.noun=noun"]
    default.data.tfds = "digits"

    def read(content: bytes) -> None:
        overrides = content.decode("utf-8", "surrogateescape").split("\n")
        config = config_check.check(default).unlock()
        for override in set(overrides) - set(lines):
            name, _, text = override.partition("=")
            cli._set(config, name, text)
        config_check.check(config)

    return "\n".join(lines).encode(), read


READERS = {
    "manifest": manifest_reader,
    "records": record_reader,
    "config": config_reader,
    "pth": fuzz_weights.pth_reader,
    "safetensors": fuzz_weights.safetensors_reader,
    "keras": fuzz_weights.keras_reader,
}


def fuzz(
    name: str, seconds: float, seed: int = 0, findings: Path | None = None
) -> collections.Counter[str]:
    """Returns how many inputs were read, were refused, and ended otherwise."""
    rng, counts = np.random.default_rng(seed), collections.Counter[str]()
    seen = set()
    with tempfile.TemporaryDirectory() as folder:
        good, read = READERS[name](Path(folder).resolve())
        read(good)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            content = changed(good, rng)
            try:
                read(content)
                counts["read"] += 1
            except UserError:
                counts["refused"] += 1
            except Exception as error:
                counts["findings"] += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                key = type(error).__name__, where.filename, where.lineno
                if key not in seen and findings is not None:
                    findings.mkdir(parents=True, exist_ok=True)
                    (findings / f"{name}-{len(seen)}").write_bytes(content)
                    traceback.print_exc()
                seen.add(key)
    return counts


def main() -> None:
    """Reads the arguments and fuzzes."""
    verb = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    verb.add_argument("reader", choices=READERS)
    verb.add_argument("--minutes", type=float, default=10)
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--findings", type=Path, default=Path("findings"))
    given = verb.parse_args()
    counts = fuzz(given.reader, 60 * given.minutes, given.seed, given.findings)
    listed = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
    print(f"{given.reader}: {sum(counts.values()):,} inputs: {listed}")


if __name__ == "__main__":
    main()
