"""Sizes of modules, functions and folders.

A function may be longer, or have more parameters, with the reason in a comment directly above it that begins with
``# Long:`` or ``# Many parameters:``. `OVER` lists what is still too large; an entry that is no longer needed fails.
"""

import ast
import re

import pytest

from tests.conftest import ROOT

PACKAGES = ("clipgeom", "pti", "analysis")
LINES_OF_A_MODULE = 400
LINES_OF_A_FUNCTION = 80
PARAMETERS = 8
FILES_OF_A_FOLDER = 12

OVER: set[str] = set()


def _functions(tree, prefix=""):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        name = (
            f"{prefix}{node.name}."
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            else prefix
        )
        yield from _functions(node, name)


def _parameters(node, *, method):
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    variable = [found for found in (arguments.vararg, arguments.kwarg) if found is not None]
    bound = method and not any(getattr(d, "id", None) == "staticmethod" for d in node.decorator_list)
    return len(positional) + len(arguments.kwonlyargs) + len(variable) - bound


def _reason(lines, node, word):
    """Whether the comment above a function, over its decorators, begins with the word and gives a reason."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    above = []
    for line in reversed(lines[: first - 1]):
        if not line.lstrip().startswith("#"):
            break
        above.insert(0, line.strip())
    return bool(above) and re.match(rf"# {word}: \S+ \S+", above[0]) is not None


def too_large(source, path="module.py"):
    """Names of what exceeds the limits in a module."""
    lines = source.splitlines()
    found = [path] if len(lines) > LINES_OF_A_MODULE else []
    tree = ast.parse(source)
    methods = {id(f) for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for f in c.body}
    for name, node in _functions(tree):
        long = node.end_lineno - node.lineno + 1 > LINES_OF_A_FUNCTION
        many = _parameters(node, method=id(node) in methods) > PARAMETERS
        if (long and not _reason(lines, node, "Long")) or (many and not _reason(lines, node, "Many parameters")):
            found.append(f"{path}: {name}")
    return found


def test_nothing_exceeds_the_limits():
    found = set()
    for package in PACKAGES:
        folders = {}
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT).as_posix()
            folders[path.parent] = folders.get(path.parent, 0) + 1
            found.update(too_large(path.read_text(encoding="utf-8"), relative))
        found.update(f"{f.relative_to(ROOT).as_posix()}/" for f, n in folders.items() if n > FILES_OF_A_FOLDER)
    assert sorted(found - OVER) == [], "split it, or give the reason in a comment above the function"
    assert sorted(OVER - found) == [], "no longer too large: remove it from OVER"


def _function(parameters="", lines=2):
    return f"def f({parameters}):\n" + "    x = 1\n" * (lines - 1)


NINE = ", ".join(f"a{i}" for i in range(9))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, ["module.py"]),
        (_function(lines=80), []),
        (_function(lines=81), ["module.py: f"]),
        ("# Long: one table of settings\n" + _function(lines=81), []),
        ("# Long:\n" + _function(lines=81), ["module.py: f"]),
        ("# a heading\n" + _function(lines=81), ["module.py: f"]),
        (_function(NINE), ["module.py: f"]),
        (_function(NINE.replace("a5", "*, a5")), ["module.py: f"]),
        (_function(NINE.replace("a8", "**a8")), ["module.py: f"]),
        ("# Many parameters: users give them by keyword\n@wrapped\n" + _function(NINE), []),
        ("# Long: one table of settings\n" + _function(NINE), ["module.py: f"]),
        (f"class C:\n    def f({NINE}): ...\n", []),
        (f"class C:\n    @staticmethod\n    def f({NINE}): ...\n", ["module.py: C.f"]),
        (f"if True:\n    def f({NINE}): ...\n", ["module.py: f"]),
    ],
)
def test_what_is_too_large(source, found):
    assert too_large(source) == found
