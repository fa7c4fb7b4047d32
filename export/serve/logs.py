"""The server's log: one JSON object a line."""

from __future__ import annotations

import json
import logging
import time


class JsonLines(logging.Formatter):
    """Messages as JSON; those of the access log are JSON already."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == "edgetune.access":
            return record.getMessage()
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return json.dumps(
            {"time": now, "level": record.levelname, "message": super().format(record)}
        )


def to_stderr() -> None:
    """Sends the access log and uvicorn's warnings to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, level in (("edgetune.access", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
