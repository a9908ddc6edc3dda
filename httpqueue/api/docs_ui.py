"""The documentation: the OpenAPI document, and Swagger UI under /docs.

Swagger UI's files are part of this package, so that it works offline and the browser asks no other server.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from httpqueue.api.problems import unknown_path
from httpqueue.api.router import Endpoint
from httpqueue.api.schema import openapi

_DIRECTORY: Final = Path(__file__).parent / "static" / "swagger-ui"
_HEADERS: Final = {
    # The browser asks each time whether its copy is current, so that an upgrade of httpqueue shows at once.
    "Cache-Control": "no-cache",
    # Swagger UI sets styles inline and has icons in data: URLs; all of its scripts are files.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def endpoints() -> Mapping[str, Endpoint]:
    """The handlers of the documentation, by the names of their operations."""
    files = StaticFiles(directory=_DIRECTORY)
    document = openapi.render()

    async def root(_request: Request) -> Response:
        return RedirectResponse("/docs")

    async def docs(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        try:
            response = await files.get_response(name, request.scope)
        except HTTPException as error:
            raise unknown_path() from error
        response.headers.update(_HEADERS)
        return response

    async def openapi_json(_request: Request) -> Response:
        return Response(document, media_type="application/json", headers={"Cache-Control": "no-cache"})

    return {"showRoot": root, "showDocs": docs, "getDocsFile": docs, "getOpenApi": openapi_json}
