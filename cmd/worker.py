"""Start the worker: the same as `httpqueue worker`."""

import sys

from httpqueue.cli import main

if __name__ == "__main__":
    sys.exit(main(["worker", *sys.argv[1:]]))
