"""Ready files for `edgetune pull`: the backbone's manifest, and a feature folder."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from edge_runtime import formats
from edge_runtime.features import FeatureFolder


def file_routes(backbone: Path, features: FeatureFolder | None) -> list[Route]:
    """GET /backbone/manifest.json; with features, /features/FILE for each file of their manifest.

    Answers to GET obey Range; nothing but the listed files can be named.
    """
    published = {"backbone": {formats.MANIFEST: backbone / formats.MANIFEST}}
    if features is not None:
        paths = [features.path / formats.MANIFEST, *(file.path for file in features.files)]
        published["features"] = {path.name: path for path in paths}

    async def file(request: Request) -> Response:
        path = published.get(request.path_params["folder"], {}).get(request.path_params["file"])
        if path is None or not path.is_file():
            raise HTTPException(404, "no such file is published here")
        return FileResponse(path)

    return [Route("/{folder}/{file}", file)]
