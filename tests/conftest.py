"""One BLAS thread in tests: their matrices are small, and their machine has other work. Hypothesis
draws the same examples in every run; `make test-all` draws new ones."""

from __future__ import annotations

import contextlib
import os

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

with contextlib.suppress(ImportError):  # a device has none
    from hypothesis import settings

    settings.register_profile("repeatable", derandomize=True)
    settings.load_profile("repeatable")
