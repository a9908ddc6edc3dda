"""Start the relay: the same as `httpqueue relay`."""

import sys

from httpqueue.cli import main

if __name__ == "__main__":
    sys.exit(main(["relay", *sys.argv[1:]]))
