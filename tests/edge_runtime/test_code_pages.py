"""Pages of code that a process lets go of: which, and that it computes on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_runtime.code_pages import unwritten

LIBRARY = b"7f00000000-7f00002000 r-xp 00001000 08:01 99    /usr/lib/a library.so\n"
COUNTS = (b"Size: 8 kB\n", b"Rss: 8 kB\n")
CLEAN = (b"Anonymous:             0 kB\n", b"Swap:                  0 kB\n")


def found(line: bytes, counts: tuple[bytes, ...] = CLEAN, maps: tuple[bytes, ...] = ()) -> object:
    smaps = [line, *COUNTS, *counts, b"VmFlags: rd ex mr mw me\n"]
    return list(unwritten(smaps, set(maps) or {line}))


def test_code_of_a_library_is_found() -> None:
    assert found(LIBRARY) == [(0x7F00000000, 0x7F00002000)]


@pytest.mark.parametrize(
    "line",
    [
        LIBRARY.replace(b"r-xp", b"rw-p"),
        LIBRARY.replace(b"r-xp", b"rwxp"),
        LIBRARY.replace(b"r-xp", b"r--s"),
        LIBRARY.replace(b"/usr/lib/a library.so", b"[vdso]"),
        LIBRARY.replace(b"    /usr/lib/a library.so", b""),
    ],
    ids=["writable", "writable code", "shared", "of no file", "anonymous"],
)
def test_other_memory_is_left_alone(line: bytes) -> None:
    assert found(line) == []


@pytest.mark.parametrize("written", [b"Anonymous:  4 kB\n", b"Swap:  4 kB\n"])
def test_a_mapping_with_a_page_that_exists_nowhere_else_is_left_alone(written: bytes) -> None:
    assert found(LIBRARY, (*CLEAN, written)) == []
    assert found(LIBRARY, (written, *CLEAN)) == []


def test_a_mapping_of_another_process_is_left_alone() -> None:
    assert found(LIBRARY, maps=(LIBRARY.replace(b"7f0", b"7e0"),)) == []


def test_each_mapping_counts_by_itself() -> None:
    other = LIBRARY.replace(b"7f0", b"7e0")
    smaps = [other, b"Anonymous: 4 kB\n", LIBRARY, *CLEAN, other, *CLEAN]
    place = (0x7F00000000, 0x7F00002000), (0x7E00000000, 0x7E00002000)
    assert list(unwritten(smaps, {other, LIBRARY})) == list(place)


PROGRAM = """
import numpy as np
from edge_runtime.code_pages import release_code_pages
from edge_runtime.memory import rss_bytes
x = np.arange(4096, dtype=np.float32).reshape(64, 64) / 64
before = (x @ x).tobytes(), np.exp(-x).tobytes()
held = rss_bytes()
assert release_code_pages()
freed = held - rss_bytes()
assert before == ((x @ x).tobytes(), np.exp(-x).tobytes())
import decimal, json, sqlite3  # loads further libraries
assert release_code_pages() and json.loads("[1.5]") == [1.5]
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
print(freed)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/self/smaps")
def test_megabytes_are_freed_and_everything_works_on() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 4 << 20


def test_without_a_list_of_mappings_nothing_happens() -> None:
    program = (
        "import builtins, edge_runtime.code_pages as pages\n"
        "def refuse(name, *rest):\n    raise FileNotFoundError(name)\n"
        "pages.open = refuse\n"
        "assert not pages.release_code_pages()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
