import pytest

from clipgeom import load_text_encoder
from tests.tiny.text_towers import save_projection


@pytest.fixture(scope="session")
def tower_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower") / "clip"
    save_projection(folder)
    return folder


@pytest.fixture(scope="session")
def tower(tower_folder):
    return load_text_encoder(tower_folder)
