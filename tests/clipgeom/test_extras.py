"""Errors of optional dependencies: the command that they recommend, and what they blame."""

import json
import shlex
import sys

import pytest

from clipgeom import _extras
from clipgeom._extras import install_command, needs_extra
from clipgeom.errors import MissingExtraError

PIP = [sys.executable, "-m", "pip", "install"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Pretend that clipgeom was installed with some direct_url.json, or from an index (None)."""

    def install(direct_url):
        info = tmp_path / "site" / "clipgeom-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clipgeom\nVersion: 0.1.0\n")
        if direct_url is not None:
            (info / "direct_url.json").write_text(json.dumps(direct_url))
        monkeypatch.syspath_prepend(str(info.parent))
        monkeypatch.setattr(_extras, "clone", lambda: None)

    return install


@pytest.fixture(autouse=True)
def pip(monkeypatch):
    monkeypatch.setattr(_extras, "_installed", lambda name: name == "pip")


def test_from_a_clone_the_clone_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(_extras, "__file__", str(tmp_path / "clipgeom" / "_extras.py"))
    assert _extras.clone() is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "clipgeom"\n')
    assert _extras.clone() == tmp_path
    assert shlex.split(install_command("report")) == [*PIP, "-e", f"{tmp_path}[report]"]


def test_a_folder_is_installed_again_where_it_is_still_there(installed, tmp_path):
    folder = tmp_path / "a clone"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    installed({"url": folder.as_uri(), "dir_info": {}})
    assert shlex.split(install_command("pti", "--upgrade")) == [*PIP, "--upgrade", f"{folder}[pti]"]
    (folder / "pyproject.toml").unlink()
    assert install_command("pti") == "install clipgeom[pti] again, from a clone of its repository"


def test_a_wheel_is_installed_from_its_file(installed, tmp_path):
    wheel = tmp_path / "clipgeom-0.1.0-py3-none-any.whl"
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert shlex.split(install_command("report")) == [*PIP, f"{wheel}[report]"]


@pytest.mark.parametrize(
    ("direct_url", "requirement"),
    [
        (
            {"url": "https://host/a/clipgeom.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            "clipgeom[pti] @ git+https://host/a/clipgeom.git@c0ffee",
        ),
        (
            {
                "url": "https://host/all.git",
                "vcs_info": {"vcs": "git", "commit_id": "c0ffee", "requested_revision": "main"},
                "subdirectory": "part",
            },
            "clipgeom[pti] @ git+https://host/all.git@main#subdirectory=part",
        ),
        (
            {"url": "file:///a/clone", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            "clipgeom[pti] @ git+file://localhost/a/clone@c0ffee",
        ),
        ({"url": "https://host/c.tar.gz", "archive_info": {}}, "clipgeom[pti] @ https://host/c.tar.gz"),
        (None, "clipgeom[pti]"),
    ],
)
def test_what_came_from_elsewhere_is_installed_from_there(installed, direct_url, requirement):
    installed(direct_url)
    assert shlex.split(install_command("pti")) == [*PIP, requirement]


def test_without_pip_the_command_is_that_of_uv(monkeypatch):
    monkeypatch.setattr(_extras, "_installed", lambda _name: False)
    assert shlex.split(install_command("report"))[:5] == ["uv", "pip", "install", "--python", sys.executable]


def test_a_missing_package_is_named():
    message = r"the trainer needs the package 'absent', which is not .*\[pti\]'?$"
    with pytest.raises(MissingExtraError, match=message), needs_extra("pti", "the trainer"):
        import absent.part  # noqa: F401


def lazily():
    try:
        raise ImportError("cannot import name 'x' from 'peft'")
    except ImportError as error:
        raise RuntimeError("Failed to import diffusers.loaders") from error


def directly():
    raise ImportError("peft>=9 is required, but found peft==1.0")


def as_transformers_does():
    raise ModuleNotFoundError("Could not import module 'CLIPModel'. Are its requirements met?")


@pytest.mark.parametrize(
    ("fail", "first"),
    [
        (lazily, "cannot import name 'x' from 'peft'"),
        (directly, "peft>=9 is required, but found peft==1.0"),
        (as_transformers_does, "Could not import module 'CLIPModel'. Are its requirements met?"),
    ],
)
def test_versions_that_do_not_fit_are_listed_in_one_line(fail, first):
    import peft
    import transformers

    with pytest.raises(MissingExtraError) as raised, needs_extra("pti", "the trainer"):
        fail()
    message = str(raised.value)
    assert message.startswith(f"the trainer needs packages that cannot be imported ({first}); installed are torch ")
    assert f"transformers {transformers.__version__}" in message
    assert f"peft {peft.__version__}" in message
    assert message.endswith(install_command("pti", "--upgrade", "--upgrade-strategy", "eager"))
    assert "\n" not in message


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="out of memory"), needs_extra("pti", "the trainer"):
        raise RuntimeError("out of memory")
