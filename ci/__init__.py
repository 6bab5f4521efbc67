"""Where cells run: the shared environment, plans, runners and the command line.

Importing this package must stay free of third-party modules: the noxfile reads
:mod:`ci.environment` before anything is installed.
"""
