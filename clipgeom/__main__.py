"""`python -m clipgeom` is the `clipgeom` command."""

from clipgeom.cli import main

main()
