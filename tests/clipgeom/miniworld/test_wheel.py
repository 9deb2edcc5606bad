"""What pip installs holds everything that the default needs."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from clipgeom.miniworld.weights import CHECKSUMS, weights_folder

ROOT = Path(__file__).resolve().parents[3]
CUT_OFF = (
    "import socket, sys\n"
    "def refuse(*a, **k): raise OSError('the network is cut off')\n"
    "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
    "import clipgeom\n"
    "assert clipgeom.__file__.startswith(sys.argv[1]), clipgeom.__file__\n"
    "from clipgeom.cli.main import main\n"
    "sys.argv = ['clipgeom', 'report', '--limit', '100', '--no-cache']\n"
    "main()\n"
)


@pytest.mark.slow
def test_the_wheel_reports_on_the_embedded_world_with_the_network_cut_off(tmp_path):
    pytest.importorskip("hatchling")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    listed = json.loads((weights_folder() / CHECKSUMS).read_text())
    assert all((site / "clipgeom" / "miniworld" / "weights" / name).is_file() for name in listed)
    for path in site.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)  # a read-only package folder
    run = subprocess.run(
        [sys.executable, "-c", CUT_OFF, str(site)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "report" / "report.html").is_file()
