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
