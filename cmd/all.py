"""Start everything in one process: the same as `httpqueue all`."""

import sys

from httpqueue.cli import main

sys.exit(main(["all", *sys.argv[1:]]))
