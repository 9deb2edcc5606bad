"""`python -m clipgeom` is the `clipgeom` command."""

from clipgeom.cli.main import main

main()
