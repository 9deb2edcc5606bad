"""`python -m pti` is the `pti` command, for launchers that take a module."""

from pti.cli.main import main

main()
