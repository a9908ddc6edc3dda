"""Start everything in one process: the same as `httpqueue all`."""

import sys

from httpqueue.cli import main

if __name__ == "__main__":
    sys.exit(main(["all", *sys.argv[1:]]))
