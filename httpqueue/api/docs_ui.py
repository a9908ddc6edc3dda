"""Swagger UI under /docs, from files of this package: it works offline and asks nobody else for anything."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

_DIRECTORY: Final = Path(__file__).parent / "static" / "swagger-ui"
_HEADERS: Final = {
    # Revalidated by its ETag: an upgrade of httpqueue shows at once.
    "Cache-Control": "no-cache",
    # Swagger UI styles elements inline and draws its icons from data: URLs; scripts are files only.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[Route]:
    """/docs, its files, and / which leads there."""
    files = StaticFiles(directory=_DIRECTORY)

    async def docs(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        response = await files.get_response(name, request.scope)
        response.headers.update(_HEADERS)
        return response

    async def root(_request: Request) -> Response:
        return RedirectResponse("/docs")

    return [Route("/docs", docs), Route("/docs/{name}", docs), Route("/", root)]
