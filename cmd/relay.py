"""Start the relay: the same as `httpqueue relay`."""

import sys

from httpqueue.cli import main

sys.exit(main(["relay", *sys.argv[1:]]))
