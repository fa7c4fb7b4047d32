"""A profile as one page that needs no network: template and data in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer_lite.page_parts import style

TEMPLATE = Path(__file__).with_name("profile_page.html")
PLACE, STYLE_PLACE = "/*PROFILE*/null", "/*STYLE*/"


def page(content: dict[str, Any]) -> str:
    """The page for what profile_table.as_object gives."""
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")  # ends no script early
    template = TEMPLATE.read_text(encoding="utf-8").replace(STYLE_PLACE, style())
    return template.replace(PLACE, data)
