import pytest

from tests.tiny.runs import save_sd, save_sdxl


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps its precision for the whole process; each test chooses its own."""
    yield
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(scope="session")
def sd(tmp_path_factory):
    return save_sd(tmp_path_factory.mktemp("pipelines") / "sd")


@pytest.fixture(scope="session")
def sd_v(tmp_path_factory):
    return save_sd(tmp_path_factory.mktemp("pipelines") / "sd2", "v_prediction")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory):
    return save_sdxl(tmp_path_factory.mktemp("pipelines") / "sdxl")


@pytest.fixture(params=["sd", "sd_v", "sdxl"])
def any_pipeline(request):
    """Each layout in turn."""
    return request.getfixturevalue(request.param)
