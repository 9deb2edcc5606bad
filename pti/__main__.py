"""The command `python -m pti`, for launchers that need a module."""

from pti.cli.main import main

main()
