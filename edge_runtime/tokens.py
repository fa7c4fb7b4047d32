"""Bearer tokens, kept in files: a command line is seen by every user of the machine."""

from __future__ import annotations

import re
from pathlib import Path

from edge_runtime.errors import FormatError

MAX_BYTES = 1 << 16
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, b64token


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line, at least one.

    Raises:
        FormatError: missing, empty, or a line that is no bearer token.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        raise FormatError(f"{path}: no such file; write the token into it") from None
    tokens = [line.decode("latin-1") for line in data.split()]
    if not tokens or len(data) > MAX_BYTES or not all(map(TOKEN.fullmatch, tokens)):
        raise FormatError(
            f"{path}: expected a token a line (letters, digits and -._~+/), "
            f"such as `openssl rand -hex 32` prints"
        )
    return tokens
