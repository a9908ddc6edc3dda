"""Start the API: the same as `httpqueue api`."""

import sys

from httpqueue.cli import main

sys.exit(main(["api", *sys.argv[1:]]))
