"""Bytes per second of tokenising: Corestone beside `tokenizers`, same merges, same ids, same cores, in one run.

Trains a byte-pair vocabulary on the Python source of the running interpreter and of the installed torch (about 56 MB,
nothing to fetch), encodes the same documents both ways in turn, and prints medians and their ratio. Both sides end
with ids that a program can use: numpy arrays here, Python lists there. Usage:

    python benchmarks/tokenize_speed.py --bytes 20e6 --vocab 32000 --threads 2 --repeats 5
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def source_files() -> Iterator[Path]:
    """Python files of the standard library and of torch, in a fixed order."""
    spec = importlib.util.find_spec("torch")
    roots = [Path(sysconfig.get_paths()["stdlib"])]
    if spec is not None and spec.origin is not None:
        roots.append(Path(spec.origin).parent)
    for root in roots:
        yield from (path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.relative_to(root).parts)


def read_texts(limit: int) -> list[str]:
    """Every k-th file, so that a smaller corpus is as mixed as the whole, up to about `limit` bytes."""
    paths = list(source_files())
    step = max(1, sum(path.stat().st_size for path in paths) // limit)
    return [path.read_bytes().decode("utf-8", "replace") for path in paths[::step]]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=60e6, help="about how much text (default: all, 56 MB)")
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--threads", type=int, default=2, help="for both sides")
    parser.add_argument("--repeats", type=int, default=5, help="median of so many, at least 3")
    args = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)  # read when `tokenizers` first works, so before its import

    import tokenizers

    from corestone.data.spec import BytePair
    from corestone.data.tokenizer import TOKENIZER_FILE, build_tokenizer

    texts = read_texts(int(args.bytes))
    n_bytes = sum(len(text.encode()) for text in texts)
    spent, ours = seconds(lambda: build_tokenizer(BytePair(vocab_size=args.vocab, sample_bytes=64_000_000), texts))
    theirs = tokenizers.Tokenizer.from_str(ours.files()[TOKENIZER_FILE])
    theirs.encode_special_tokens = True
    print(f"{len(texts)} documents, {n_bytes / 1e6:.1f} MB; trained {args.vocab} tokens in {spent:.1f} s")
    print(f"encoder: {ours.encoder} ({ours.encoder_reason}); {ours.manifest.bytes_per_token:.3f} bytes/token")

    def reference() -> list[list[int]]:
        return [encoding.ids for encoding in theirs.encode_batch_fast(texts, add_special_tokens=False)]

    times: dict[str, list[float]] = {"tokenizers": [], "tokenizers, ids left inside": [], "corestone": []}
    for _ in range(max(3, args.repeats)):  # in turn, so that a busy moment of the machine meets all
        spent, expected = seconds(reference)
        times["tokenizers"].append(spent)
        spent, _ = seconds(lambda: theirs.encode_batch_fast(texts, add_special_tokens=False))
        times["tokenizers, ids left inside"].append(spent)
        spent, found = seconds(lambda: ours.encode_batch(texts, threads=args.threads))
        times["corestone"].append(spent)
        assert all(a.tolist() == b for a, b in zip(found, expected, strict=True)), "ids differ"
        del expected, found
    rates = {name: n_bytes / 1e6 / statistics.median(spent) for name, spent in times.items()}
    for name, rate in rates.items():
        spread = ", ".join(f"{n_bytes / 1e6 / one:.1f}" for one in times[name])
        print(f"{name:28s} {rate:6.1f} MB/s on {args.threads} threads (runs: {spread})")
    print(f"same ids; ratio {rates['corestone'] / rates['tokenizers']:.2f}x, ", end="")
    print(f"{rates['corestone'] / rates['tokenizers, ids left inside']:.2f}x where the ids are left inside")


if __name__ == "__main__":
    main()
