"""Start the api: the same as `httpqueue api`."""

import sys

from httpqueue.cli import main

if __name__ == "__main__":
    sys.exit(main(["api", *sys.argv[1:]]))
