"""Start a worker: the same as `httpqueue worker`."""

import sys

from httpqueue.cli import main

sys.exit(main(["worker", *sys.argv[1:]]))
