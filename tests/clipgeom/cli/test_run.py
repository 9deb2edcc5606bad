"""Exit codes and messages of both command lines."""

import errno

import pytest

from clipgeom.cli.run import run_command_line
from clipgeom.errors import ConfigError


def outcome(error, capsys):
    def app():
        raise error

    with pytest.raises(SystemExit) as caught:
        run_command_line("program", lambda: app, remains="Nothing was left behind")
    return caught.value.code, capsys.readouterr()


def test_an_error_of_the_user_is_one_line(capsys):
    code, printed = outcome(ConfigError("expected a file,\n got none"), capsys)
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("program: expected a file,")
    assert printed.err.count("\n") == 1


def test_a_full_disk_is_explained_with_what_remains(capsys):
    code, printed = outcome(OSError(errno.ENOSPC, "No space left on device", "out.npz"), capsys)
    assert code == 2
    assert printed.err.startswith("program: ")
    assert printed.err.endswith(". Nothing was left behind\n")


def test_a_missing_package_is_an_error_of_the_user(capsys):
    def load():
        raise ConfigError("install clipgeom[report]")

    with pytest.raises(SystemExit) as caught:
        run_command_line("program", load, remains="")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "program: install clipgeom[report]\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), OSError(errno.EBADF, "Bad file descriptor")])
def test_a_defect_of_ours_keeps_its_traceback(error):
    def app():
        raise error

    with pytest.raises(type(error)) as caught:
        run_command_line("program", lambda: app, remains="")
    assert caught.value is error
