"""Pages of program files that a process needed only while it loaded.

Importing numpy runs through much of its libraries once: tables, initialisers, what parses a module.
Those pages stay mapped and count as resident, though nobody reads them again. They are copies of
files, so Linux can unmap them at any time and map them again when they are read; it does so itself
where memory is short. Here it is told to do so early, and peak RSS is that of the work.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Iterator


def release_code_pages() -> bool:
    """Unmaps pages of files that are mapped read-only and were never written to.

    Nothing is lost, and what is read again is mapped again, mostly without reading a file. To be
    called once everything is loaded.

    Returns:
        Whether it was done: not where Linux, its list of mappings or ctypes is missing.
    """
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        madvise = ctypes.CDLL(None).madvise
        with open("/proc/self/maps", "rb") as maps, open("/proc/self/smaps", "rb") as smaps:
            found = list(unwritten(smaps, set(maps)))
    except (ImportError, OSError, AttributeError):
        return False
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in found:
        madvise(start, end - start, mmap.MADV_DONTNEED)  # refused, it leaves all as it was
    return True


def unwritten(smaps: Iterable[bytes], maps: set[bytes]) -> Iterator[tuple[int, int]]:
    """(start, end) of private read-only mappings of files all of whose pages are the file's.

    A page that was written before it became read-only (a relocation, a breakpoint) exists in
    memory or swap alone: a mapping that has one is left out, whole.

    Args:
        smaps: lines of /proc/PID/smaps (see proc_pid_smaps(5)).
        maps: those of /proc/PID/maps. A mapping must be in both: an emulator may make up one of
            the two for the process that it emulates, and leave the other as its own.
    """
    region, written = None, False
    for line in smaps:
        key = line.split(None, 1)[0]
        if not key.endswith(b":"):
            if region is not None and not written:
                yield region
            region, written = read_only_file(line) if line in maps else None, False
        elif key in (b"Anonymous:", b"Swap:"):
            written |= line.split()[1] != b"0"
    if region is not None and not written:
        yield region


def read_only_file(line: bytes) -> tuple[int, int] | None:
    """(start, end) of a line of /proc/PID/maps, where it is a file's, private and not writable."""
    place, permissions, _, _, _, *path = line.split(None, 5)
    if not path or not path[0].startswith(b"/"):
        return None
    if permissions[1:2] != b"-" or permissions[3:4] != b"p":
        return None
    start, _, end = place.partition(b"-")
    return int(start, 16), int(end, 16)
