"""`python -m pti` is the `pti` command, for launchers that take a module."""

from pti.cli import main

main()
