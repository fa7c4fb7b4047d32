"""What this process holds in memory."""

from __future__ import annotations

import sys


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far, in bytes.

    On Linux it is VmHWM of /proc/self/status: `ru_maxrss` is inherited across fork and exec there
    and can name the parent's peak.
    """
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
