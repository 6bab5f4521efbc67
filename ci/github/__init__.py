"""The GitHub side of the fleet: runners, the pull-request comment, and records out of runs."""
