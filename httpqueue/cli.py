"""The `httpqueue` command."""

import argparse
import sys
from collections.abc import Sequence

from httpqueue import __version__
from httpqueue.errors import StartError
from httpqueue.run import run
from httpqueue.settings import Mode, load

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit code (2: it cannot start as it is set up)."""
    parser = argparse.ArgumentParser(
        prog="httpqueue",
        description="Make HTTP requests in the future.",
        epilog="Settings come from the environment (HTTPQUEUE_*): see docs/settings.md.",
    )
    parser.add_argument("--version", action="version", version=f"httpqueue {__version__}")
    parser.add_argument(
        "part",
        nargs="?",
        choices=[mode.value for mode in Mode],
        help="what to run: all (default; with the embedded Valkey unless REDIS_URL is set), "
        "or one part: api, relay, worker",
    )
    part = parser.parse_args(arguments).part
    try:
        run(load(mode=part) if part else load())
    except StartError as error:
        print(f"httpqueue: {error}", file=sys.stderr)  # noqa: T201 - one line for the person who started it
        return EXIT_USAGE
    return 0
