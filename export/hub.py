"""Weights from the Hugging Face hub, without minutes of retries where it cannot be reached."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

TIMEOUT_SECONDS = 5.0


def reachable(url: str) -> bool:
    """True where a web server answers at `url`, through the proxy of the environment if any."""
    if not url.startswith(("http://", "https://")):
        return False
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[str]:
    """Answers from the local cache alone, at once, where the hub cannot be reached.

    Yields the hub's address.
    """
    from huggingface_hub import constants

    settings: Any = constants
    endpoint = str(settings.ENDPOINT)
    before = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = before or not reachable(endpoint)
    try:
        yield endpoint
    finally:
        settings.HF_HUB_OFFLINE = before
