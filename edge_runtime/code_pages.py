"""Pages of program files that a process needed only while it loaded.

Importing numpy runs through much of its libraries once: tables, initialisers, what parses a module.
Those pages stay mapped and count as resident, though nobody reads them again. They are copies of
files, so Linux can unmap them at any time and map them again when they are read; it does so itself
where memory is short. Here it is told to do so early, and peak RSS is that of the work.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable

READ_ONLY = (b"r--p", b"r-xp")  # and private
# Entries of a mapping, in kB: pages in memory, those of them that are no file's, those in swap.
COUNTS = RESIDENT, ANONYMOUS, SWAPPED = b"Rss:", b"Anonymous:", b"Swap:"


def release_code_pages() -> bool:
    """Unmaps pages of files that are mapped read-only and were never written to.

    Nothing is lost, and what is read again is mapped again, mostly without reading a file. To be
    called once everything is loaded.

    Returns:
        Whether it was done: not where Linux, its lists of mappings or ctypes are missing.
    """
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        madvise = ctypes.CDLL(None).madvise
        with open("/proc/self/maps", "rb") as maps, open("/proc/self/smaps", "rb") as smaps:
            found = unwritten(smaps, maps)
    except (ImportError, OSError, AttributeError):
        return False
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in found:
        madvise(start, end - start, mmap.MADV_DONTNEED)  # refused, it leaves all as it was
    return bool(found)


def unwritten(smaps: Iterable[bytes], maps: Iterable[bytes]) -> list[tuple[int, int]]:
    """(start, end) of private read-only mappings of files all of whose pages are the file's.

    A page that was written before it became read-only (a relocation, a breakpoint) exists in
    memory or swap alone: a mapping that has one is left out, whole. An emulator may show its own
    process in one of the two lists, or make up counts: nothing is believed unless both list the
    same mappings of files, and some mapping has pages of no file, as every process has.

    Args:
        smaps: lines of /proc/PID/smaps (see proc_pid_smaps(5)). maps: those of /proc/PID/maps.
    """
    mappings: dict[bytes, dict[bytes, int]] = {}
    counts: dict[bytes, int] = {}
    for line in smaps:
        key, *values = line.split(None, 2)
        if not key.endswith(b":"):
            counts = mappings[line] = dict.fromkeys(COUNTS, 0)
        elif key in counts:
            counts[key] = int(values[0])
    if [line for line in mappings if names_file(line)] != [
        line for line in maps if names_file(line)
    ]:
        return []
    if not any(own[ANONYMOUS] for own in mappings.values()):
        return []
    return [
        region_of(line)
        for line, own in mappings.items()
        if names_file(line) and line.split()[1] in READ_ONLY
        if own[RESIDENT] and not (own[ANONYMOUS] or own[SWAPPED])
    ]


def names_file(line: bytes) -> bool:
    """Whether a line of /proc/PID/maps names a file."""
    return b"/" in line


def region_of(line: bytes) -> tuple[int, int]:
    """(start, end) of a line of /proc/PID/maps."""
    start, _, end = line.split(None, 1)[0].partition(b"-")
    return int(start, 16), int(end, 16)
