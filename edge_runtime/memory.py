"""What this process holds in memory."""

from __future__ import annotations

import sys


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far, in bytes.

    On Linux it is VmHWM of /proc/self/status: `ru_maxrss` is inherited across fork and exec there
    and can name the parent's peak.
    """
    found = _status(b"VmHWM:")
    if found is not None:
        return found
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """Resident size of this process now, in bytes (VmRSS); where Linux is not, the peak."""
    found = _status(b"VmRSS:")
    return peak_rss_bytes() if found is None else found


def address_space_bytes() -> int:
    """Address space of this process now, in bytes (VmSize); 0 where Linux is not."""
    return _status(b"VmSize:") or 0


def data_segment_bytes() -> int:
    """Private writable mappings of this process, in bytes (VmData): what RLIMIT_DATA counts."""
    return _status(b"VmData:") or 0


def limits() -> tuple[int | None, int | None]:
    """(address space, data segment) that this process may have, as `ulimit -v` and `-d` set them,
    in bytes; None where there is no limit."""
    import resource

    found = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    space, data = (None if limit == resource.RLIM_INFINITY else limit for limit in found)
    return space, data


def _status(key: bytes) -> int | None:
    """An entry of /proc/self/status in bytes; None where there is no such file."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(key):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
