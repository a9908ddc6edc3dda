"""GET /audit: who changed what over the API, the latest first."""

from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.audit_trail import AuditTrail
from httpqueue.api.auth import application_of, sees_all
from httpqueue.api.schema.cursor import decode_audit_cursor, encode_audit_cursor
from httpqueue.api.schema.query import read_audit_query
from httpqueue.api.schema.render import audit_view
from httpqueue.storage.audit import Audit


class AuditLog:
    """Shows the audit log. An application's own admin sees what was changed in that application."""

    def __init__(self, audit: Audit, trail: AuditTrail | None = None) -> None:
        self._audit = audit
        self._trail = trail

    async def get(self, request: Request) -> Response:
        """GET /audit: a page of entries."""
        query = read_audit_query(request)
        is_for_all = query.application is None and sees_all(request.scope)
        application = None if is_for_all else application_of(request.scope, query.application)
        position = decode_audit_cursor(query.cursor)
        async with responses.in_time():
            if self._trail is not None:
                await self._trail.flush()
            page = await self._audit.page(position, limit=query.limit, application=application)
        return responses.json_response(
            {
                "entries": [audit_view(entry) for entry in page.entries],
                "next_cursor": encode_audit_cursor(page.next) if page.next else None,
            }
        )
