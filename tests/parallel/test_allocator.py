"""The restart without glibc's thread cache: what it does, when it is left out, and that nothing but memory changes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from corestone.parallel.allocator import TUNABLES

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")

PROBE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from corestone.parallel.allocator import restart_without_thread_cache
print("begin", os.getpid(), flush=True)
restart_without_thread_cache(sys.argv[1:] if sys.argv[1] != "other" else ["pretrain"])
print("end", os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], flush=True)
if sys.argv[1] == "wait":
    signal.pause()
sys.exit(7)
"""

WHOLE_AGAIN = """
import ctypes
from corestone.parallel.allocator import keep_freed_memory
assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
class Counts(ctypes.Structure):  # mallinfo2 of glibc's malloc.h
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
libc.mallinfo2.restype = Counts
def aligned(size):
    place = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(place), ctypes.c_size_t(64), ctypes.c_size_t(size)) == 0
    return place.value
made = [(libc.malloc(40), aligned((number % 5 + 1) << 20), libc.malloc(200)) for number in range(50)]
for blocks in reversed(made):
    for block in blocks:
        libc.free(block)
counts = libc.mallinfo2()
print(counts.fordblks - counts.keepcost)
"""

RECIPE = """
name: small
model: {kind: decoder, embedding: {vocab_size: 320, context_length: 32}, stack: {width: 32, blocks: [
  {mixer: {kind: attention, num_heads: 2, head_dim: 16}, feedforward: {hidden_dim: 64}}]}}
objective: {kind: next_token}
data: {components: [{source: {kind: files, paths: [text.txt]}}], tokenizer: {kind: bytes}, context_length: 32}
optimiser: {kind: adamw, learning_rate: 0.003}
schedule: {kind: cosine, warmup: 5 steps}
training: {length: 20 steps, batch_tokens: 256, precision: bfloat16}
rhythm: {log: 5 steps, evaluate: null, sample: null, checkpoint: 20 steps}
"""


def environment(tunables: str | None = None, **others: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "LD_PRELOAD")}
    return kept | others | ({} if tunables is None else {"GLIBC_TUNABLES": tunables})


def start(*arguments: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROBE, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_begins_anew_once_under_the_same_id_with_the_same_arguments_and_exit_code():
    process = start("a b", "", "--x=1", environment=environment())
    lines = process.communicate(timeout=60)[0].splitlines()
    begin = f"begin {process.pid}"
    assert lines == [begin, begin, f"end {process.pid} {TUNABLES} {['a b', '', '--x=1']}"]
    assert process.returncode == 7


@pytest.mark.parametrize(
    ("argument", "around", "tunables"),
    [
        ("own", environment("glibc.malloc.arena_max=2"), "glibc.malloc.arena_max=2"),
        ("own", environment(""), ""),
        ("own", environment(LD_PRELOAD="libtcmalloc_minimal.so.4"), None),
        ("other", environment(), None),
    ],
    ids=["users", "empty", "another-allocator", "another-program"],
)
def test_it_is_left_out(argument, around, tunables):
    process = start(argument, environment=around)
    lines = process.communicate(timeout=60)[0].splitlines()
    assert lines == [f"begin {process.pid}", f"end {process.pid} {tunables} {[argument]}"]
    assert process.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_it(number):
    process = start("wait", environment=environment())
    while not process.stdout.readline().startswith("end"):
        pass
    process.send_signal(number)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1] or number != signal.SIGINT
    assert process.returncode == -number


def test_freed_blocks_become_one_again():
    """Bytes that are free but not part of the heap's last block, after 157 MB of aligned blocks were freed: seen 9 kB,
    and 152 MB with the thread cache."""
    apart = {}
    for tunables in (TUNABLES, ""):
        done = subprocess.run(
            [sys.executable, "-c", WHOLE_AGAIN], env=environment(tunables), capture_output=True, text=True, check=True
        )
        apart[tunables] = int(done.stdout)
    assert apart[TUNABLES] < 1e6 < 50e6 < apart[""], apart


def test_training_verbs_begin_anew_and_others_do_not(tmp_path):
    (tmp_path / "asks.py").write_text("import os\nprint('HERE', os.environ.get('GLIBC_TUNABLES'))\n")
    for words, tunables in {("pretrain",): TUNABLES, ("--debug", "compare"): TUNABLES, ("show",): None}.items():
        done = subprocess.run(
            [sys.executable, "-m", "corestone", *words, "asks.py"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines() == [f"HERE {tunables}"], done.stderr
        assert done.returncode == 2


def test_it_changes_no_weight(tmp_path):
    (tmp_path / "text.txt").write_text("the seven sages watch the quick brown fox while lazy dogs sleep. " * 200)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    hashes = set()
    for tunables in (None, ""):
        folder = tmp_path / f"run-{tunables}"
        command = [sys.executable, "-m", "corestone", "pretrain", "recipe.yaml", "--run", str(folder)]
        around = environment(tunables, OMP_NUM_THREADS="1")
        done = subprocess.run(command, cwd=tmp_path, env=around, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (weights,) = folder.glob("checkpoints/*/model.safetensors")
        hashes.add(hashlib.sha256(weights.read_bytes()).hexdigest())
    assert len(hashes) == 1
