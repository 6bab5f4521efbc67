"""Starts the command line of `accuracy.cli`."""

import sys

from accuracy.cli import main

sys.exit(main())
