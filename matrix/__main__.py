"""Makes `python -m matrix` run the command line."""

import signal

from matrix.cli import main

# `python -m matrix list | head` ends quietly, as other commands do.
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
raise SystemExit(main())
