"""The standard library's HTTP client, without OpenSSL where a connection is not encrypted.

`http.client` imports ssl wherever there is one, for a class that http:// has no use for, and that
loads OpenSSL: four megabytes of a device's memory. So for http:// its code is run once more as a
module of ours, in which `import ssl` fails as on a Python that was built without it; http.client
allows for that. Everybody else's http.client stays what it is.
"""

from __future__ import annotations

import builtins
import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import Any

NAME = "http.client"


def http_client(secure: bool) -> Any:
    """http.client; for connections that are not secure, perhaps a copy without HTTPSConnection."""
    if secure or NAME in sys.modules:
        import http.client

        return http.client
    return _without_ssl()


@cache
def _without_ssl() -> ModuleType:
    spec = importlib.util.find_spec(NAME)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
    spec.loader.exec_module(module)
    return module


def _import(name: str, *rest: Any) -> Any:
    """What the copy's import statements call."""
    if name == "ssl":
        raise ImportError("not for http://")
    return __import__(name, *rest)
