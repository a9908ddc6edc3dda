"""`python -m httpqueue` is the `httpqueue` command."""

import sys

from httpqueue.cli import main

sys.exit(main())
