"""The rival of POST /timers: Starlette, uvicorn and one redis-py transaction a request. Run as: … SOCKET.

It writes what httpqueue writes (record, due index, outbox), checks less, and prints the port it listens on.
"""

import secrets
import socket
import sys

import orjson
import uvicorn
import uvloop
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from httpqueue.clock import now_ms


def create_app(redis: Redis) -> Starlette:
    """POST /timers and nothing else."""

    async def post(request: Request) -> Response:
        fields = orjson.loads(await request.body())
        timer_id = secrets.token_urlsafe(16)
        due_ms = now_ms() + int(fields["seconds"] * 1000)
        async with redis.pipeline(transaction=True) as transaction:
            transaction.set(f"timer:{timer_id}", orjson.dumps(fields))
            transaction.zadd("due", {timer_id: due_ms})
            transaction.xadd("outbox", {"timer": timer_id, "due": due_ms})
            await transaction.execute()
        return Response(orjson.dumps({"id": timer_id, "due": due_ms}), 201, media_type="application/json")

    return Starlette(routes=[Route("/timers", post, methods=["POST"])])


async def main(redis_socket: str) -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2_048)
    app = create_app(Redis(unix_socket_path=redis_socket))
    server = uvicorn.Server(
        uvicorn.Config(app, http="httptools", lifespan="off", log_config=None, access_log=False)
    )
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
