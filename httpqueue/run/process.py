"""One process of httpqueue, from its settings to its end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from httpqueue.errors import SettingsError
from httpqueue.run.lifecycle import run_until_signal
from httpqueue.run.limits import allow_many_connections, collect_garbage_less_often
from httpqueue.run.wiring import open_parts
from httpqueue.runtime import logs
from httpqueue.settings import Mode, Settings
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.secret_box import SecretBox, key_beside, random_key


def run(settings: Settings) -> None:
    """Run the parts of the settings' mode until SIGINT or SIGTERM. Raises StartError when it cannot start."""
    logs.configure(settings.log_format, settings.log_level)
    allow_many_connections()
    collect_garbage_less_often()
    with _redis(settings) as (url, kept_in):
        opened = open_parts(settings, url, kept_in=kept_in, secrets=SecretBox(_secret_keys(settings)))
        uvloop.run(run_until_signal(opened, mode=settings.mode.value))


def _secret_keys(settings: Settings) -> Sequence[bytes]:
    """What encrypts signing secrets. The embedded server has a key of its own, if the settings have none.

    That key goes on decrypting when there is a setting, so that one can be set at any time.
    """
    if settings.redis_url is not None:
        return settings.secret_keys
    own = random_key() if settings.in_memory else key_beside(settings.data_dir)
    return (*settings.secret_keys, own)


@contextmanager
def _redis(settings: Settings) -> Iterator[tuple[str, str]]:
    """The URL of the store, and where it keeps its data. Starts the embedded server if there is no other."""
    if settings.redis_url is not None:
        yield settings.redis_url, "Redis at HTTPQUEUE_REDIS_URL"
    elif settings.mode is not Mode.ALL:
        raise SettingsError(
            f"setting HTTPQUEUE_REDIS_URL: `httpqueue {settings.mode}` needs the Redis that all parts share"
        )
    elif settings.in_memory:
        with (
            TemporaryDirectory(prefix="httpqueue-") as directory,  # for the server's socket and log
            EmbeddedValkey(Path(directory), persistent=False) as server,
        ):
            yield server.url, "in memory, gone when this ends"
    else:
        with EmbeddedValkey(settings.data_dir) as server:
            yield server.url, str(settings.data_dir.absolute())
