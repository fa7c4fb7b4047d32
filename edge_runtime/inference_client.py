"""A client of the Open Inference Protocol, for one model of one server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from edge_runtime import formats, open_inference
from edge_runtime.errors import DataError, ProtocolError, ServerError
from edge_runtime.http_link import Answer, Link
from edge_runtime.open_inference import BINARY_EXTENSION, JSON_LENGTH, Message, Value

MAX_METADATA_BYTES = 1 << 20
MODELS = "/v2/models/"
SHOWN = 200  # characters of a server's message
OF_IMAGE = re.compile(r"image (\d{1,6}): ")  # how the message of an unusable image starts


class InferenceClient:
    """Talks to a model in binary where the server has that extension, in JSON where it has not.

    Args:
        model: its name; where it is missing, the server must have one model only.

    Raises:
        ServerError: cannot be reached, refuses the token, or is no such server.
    """

    def __init__(self, link: Link, model: str | None = None):
        self.link = link
        server = self._get("/v2")
        self.binary = BINARY_EXTENSION in _list(server.get("extensions"))
        self.model = model or self._only_model()
        self._path = MODELS + quote(self.model, safe="")

    def metadata(self) -> formats.Json:
        """What the server says of the model."""
        return self._get(self._path)

    def config_parameter(self, name: str) -> str | None:
        """A parameter of the model's configuration; None where there is no such thing (Triton)."""
        answer = self.link.request("GET", self._path + "/config", most=MAX_METADATA_BYTES)
        if answer.status in (404, 405):
            return None
        content = self._json(answer)
        for key in ("parameters", name, "string_value"):
            content = content.get(key) if isinstance(content, dict) else None
        return content if isinstance(content, str) else None

    def infer(self, inputs: Mapping[str, Value], outputs: Sequence[str], most: int) -> Message:
        """The answer to an inference request.

        Args:
            outputs: names; they come as binary where the server can, else in JSON.
            most: bytes that an answer can have.

        Raises:
            DataError: the server cannot use an image; the message starts with `image INDEX: `.
            ServerError: refused, or an answer that is none.
        """
        wanted = [{"name": n, "parameters": {"binary_data": self.binary}} for n in outputs]
        in_json = [] if self.binary else list(inputs)
        body, length = open_inference.build({"outputs": wanted}, "inputs", inputs, in_json)
        headers = {"Content-Type": "application/json"}
        if length is not None:
            headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(length)}
        answer = self.link.request("POST", self._path + "/infer", body, headers, most=most)
        if answer.status == 422 or (answer.status == 400 and OF_IMAGE.match(_message(answer))):
            raise DataError(_message(answer))
        self._check(answer)
        try:
            length_header = answer.headers.get(JSON_LENGTH.lower())
            return open_inference.parse(answer.body, length_header, "outputs")
        except ProtocolError as error:
            raise ServerError(f"{self.link.url}: its answer is damaged: {error}") from None

    def _only_model(self) -> str:
        index = self._post_json("/v2/repository/index")
        names = [one.get("name") for one in index if isinstance(one, dict)]
        if len(names) != 1 or not isinstance(names[0], str):
            shown = ", ".join(str(name)[:60] for name in names[:9]) or "none"
            raise ServerError(
                f"{self.link.url} has not one model but these: {shown}; name one with "
                f"{self.link.url}{MODELS}NAME"
            )
        return names[0]

    def _get(self, path: str) -> formats.Json:
        answer = self.link.request("GET", path, most=MAX_METADATA_BYTES)
        content = self._json(answer)
        if not isinstance(content, dict):
            raise self._no_server()
        return content

    def _post_json(self, path: str) -> list[Any]:
        headers = {"Content-Type": "application/json"}
        content = self._json(
            self.link.request("POST", path, b"{}", headers, most=MAX_METADATA_BYTES)
        )
        return _list(content)

    def _json(self, answer: Answer) -> Any:
        self._check(answer)
        try:
            return formats.loads(answer.body)
        except (ValueError, RecursionError):
            raise self._no_server() from None

    def _check(self, answer: Answer) -> None:
        """Raises ServerError for a status that is not 200."""
        if answer.status in (401, 403):
            raise ServerError(
                f"{self.link.url} asks for a token that it knows; give it with --token-file"
            )
        if answer.status != 200:
            raise ServerError(
                f"{self.link.url} answers with status {answer.status}: {_message(answer)}"
            )

    def _no_server(self) -> ServerError:
        return ServerError(
            f"{self.link.url} does not speak the Open Inference Protocol; give the URL of "
            f"`edgetune serve`, or of another such server"
        )


def split_url(url: str) -> tuple[str, str | None]:
    """(the server's URL, the model's name or None) of http://SERVER[/v2/models/NAME]."""
    server, found, name = url.rstrip("/").partition(MODELS)
    return (server, unquote(name)) if found and "/" not in name else (url, None)


def _message(answer: Answer) -> str:
    """The error that a server names, in one printable line."""
    try:
        text = str(json.loads(answer.body)["error"])
    except (ValueError, RecursionError, KeyError, TypeError):
        text = "no reason given"
    return "".join(c if c.isprintable() else " " for c in text[:SHOWN])


def _list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []
