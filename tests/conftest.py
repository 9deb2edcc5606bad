import os
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests import shapes  # noqa: F401  # the import hook looks it up by name

ROOT = Path(__file__).parent.parent

# Nothing is timed: the machine may be loaded by other processes.
settings.register_profile("clipgeom", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("clipgeom")

# Modules of array code: the shapes in their annotations are enforced while the tests run. Before they are imported.
ARRAY_MODULES = (
    "encoder.positions",
    "geometry._conformity",
    "geometry.bootstrap",
    "geometry.modality",
    "geometry.moments",
    "geometry.norms",
    "geometry.spectrum",
    "geometry.vectors",
)
install_import_hook(
    [*(f"clipgeom.{name}" for name in ARRAY_MODULES), "pti.evaluation.metrics", "pti.evaluation.attribute_metrics"],
    "tests.shapes.enforced",
)


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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """A cache of the test's own: nothing is read from, or left in, the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLIPGEOM_CACHE", str(folder))
    return folder


@pytest.fixture(params=["numpy", "array_api_strict", "torch"])
def xp(request):
    """An array namespace; ``xp.asarray`` takes NumPy arrays and lists, ``np.asarray`` takes the results back."""
    import array_api_compat

    library = pytest.importorskip(request.param)
    return array_api_compat.array_namespace(library.asarray([0.0]))


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder; give back exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def runner(name, main, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return runner


@pytest.fixture
def run(command):
    """The command clipgeom."""
    from clipgeom.cli.main import main

    return partial(command, "clipgeom", main)


@pytest.fixture
def pti(command):
    """The command pti."""
    from pti.cli.main import main

    return partial(command, "pti", main)
