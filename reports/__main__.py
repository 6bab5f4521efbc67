"""Makes `python -m reports` run the command line."""

import signal

from reports.cli import main

# `python -m reports status | head` ends quietly, as other commands do.
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
raise SystemExit(main())
