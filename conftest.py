import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).parent

# the rooms of the array code: the shapes in their annotations are enforced while the tests run
ARRAY_ROOMS = ("conforming", "encoder.positions", "intervals", "modality", "moments", "shells", "spectrum", "vectors")

install_import_hook([f"clipgeom.{room}" for room in ARRAY_ROOMS], "beartype.beartype")


@pytest.fixture(scope="session")
def shared():
    """Find a real file of the shared folder by its path there; the test is skipped where it is absent."""
    folder = Path(os.environ.get("CLIPGEOM_SHARED", ROOT.parent / "shared"))

    def find(name):
        path = folder / name
        if not path.exists():
            pytest.skip(f"{path} is absent; set CLIPGEOM_SHARED to the folder that holds {name}")
        return path

    return find
