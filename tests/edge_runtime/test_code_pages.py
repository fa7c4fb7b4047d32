"""Pages of code that a process lets go of: which, and that it computes on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_runtime.code_pages import unwritten

LIBRARY = b"7f00000000-7f00002000 r-xp 00001000 08:01 99    /usr/lib/a library.so\n"
CLEAN = (b"Anonymous:             0 kB\n", b"Swap:                  0 kB\n")
HEAP = (
    b"5500000000-5500001000 rw-p 00000000 00:00 0    [heap]\n",
    b"Rss: 4 kB\n",
    b"Anonymous: 4 kB\n",
)


def found(line: bytes, counts: tuple[bytes, ...] = CLEAN, maps: tuple[bytes, ...] = ()) -> object:
    smaps = [*HEAP, line, b"Size: 8 kB\n", b"Rss: 8 kB\n", *counts, b"VmFlags: rd ex mr mw me\n"]
    return unwritten(smaps, [HEAP[0], *(maps or (line,))])


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


@pytest.mark.parametrize("key", [b"Anonymous:", b"Swap:"])
def test_a_mapping_with_a_page_that_exists_nowhere_else_is_left_alone(key: bytes) -> None:
    assert (
        found(LIBRARY, tuple(b"%b 4 kB\n" % key if key in line else line for line in CLEAN)) == []
    )


def test_lists_of_two_processes_are_not_believed() -> None:
    """qemu 7.2 shows maps of the program it runs, but smaps of itself, a page further on."""
    other = LIBRARY.replace(b"7f0", b"7e0")
    assert found(LIBRARY, maps=(other,)) == []
    assert found(LIBRARY, maps=(LIBRARY, other)) == []
    assert unwritten([*HEAP, other, LIBRARY, b"Rss: 8 kB\n", *CLEAN], [LIBRARY]) == []


def test_each_mapping_counts_by_itself() -> None:
    other = LIBRARY.replace(b"7f0", b"7e0")
    rss = b"Rss: 8 kB\n"
    smaps = [other, rss, b"Anonymous: 4 kB\n", LIBRARY, rss, *CLEAN]
    assert unwritten(smaps, [other, LIBRARY]) == [(0x7F00000000, 0x7F00002000)]


def test_counts_that_an_emulator_made_up_are_not_believed() -> None:
    nothing = (b"Rss: 0 kB\n", *CLEAN)
    assert unwritten([HEAP[0], *nothing, LIBRARY, *nothing], [HEAP[0], LIBRARY]) == []
    assert unwritten([HEAP[0], *CLEAN, LIBRARY, b"Rss: 8 kB\n", *CLEAN], [LIBRARY]) == []
    assert unwritten([*HEAP, LIBRARY, *nothing], [LIBRARY]) == []


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
