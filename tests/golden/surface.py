"""What users name: public Python names with their signatures, commands with their help texts."""

import dataclasses
import inspect
import re

from .reports import command

_BOX = re.compile(r"[│╭╮╰╯─┌┐└┘├┤]+")
_MODULES = re.compile(r"\b(?:clipgeom|pti|np|numpy|torch|typing|pathlib|collections|os)\.(?:[a-z_]\w*\.)*")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def name_values():
    """Public names of both packages."""
    import clipgeom
    import pti

    found = {}
    for package in (clipgeom, pti):
        for name in sorted(package.__all__):
            found[f"{package.__name__}.{name}"] = _described(getattr(package, name))
    return found


def help_values():
    """The help text of every command, as lines without boxes and colours."""
    found = {}
    for package in ("clipgeom", "pti"):
        waiting = [()]
        while waiting:
            words = waiting.pop(0)
            lines = _help(package, *words)
            found[" ".join((package, *words))] = [
                " ".join(_BOX.sub(" ", line).split()) for line in lines if _plain(line)
            ]
            waiting += [(*words, name) for name in _subcommands(lines)]
    return found


def _help(package, *words):
    return _ANSI.sub("", command(package, *words, "--help")).splitlines()


def _plain(line):
    return _BOX.sub(" ", line).strip()


def _subcommands(lines):
    """Names in the panel of commands: those after the border, where further lines of a description are indented."""
    names, inside = [], False
    for line in lines:
        if line.startswith("╭"):
            inside = " Commands " in line
        elif inside and (found := re.match(r"│ ([a-z][\w-]*)", line)):
            names.append(found[1])
    return names


def _described(value):
    if inspect.isclass(value):
        return _class(value)
    if callable(value):
        return f"def {_signature(value)}"
    return type(value).__name__


def _class(kind):
    members = {}
    fields = {field.name: field for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
    for name, field in fields.items():
        if not name.startswith("_"):
            members[name] = _field(field)
    for name in dir(kind):
        if name.startswith("_") or name in fields or _inherited(kind, name):
            continue
        raw = inspect.getattr_static(kind, name)
        if isinstance(raw, property):
            members[name] = "property"
        elif isinstance(raw, staticmethod | classmethod):
            members[name] = f"{type(raw).__name__} {_signature(getattr(kind, name))}"
        else:
            members[name] = f"def {_signature(raw)}" if callable(raw) else type(raw).__name__
    bases = ", ".join(base.__name__ for base in kind.__mro__[1:-1])
    head = {"class": bases}
    if not issubclass(kind, Exception) and not any(isinstance(member, dict) for member in members.values()):
        head["made by"] = _signature(kind)
    return head | dict(sorted(members.items()))


def _inherited(kind, name):
    """Whether a member comes from Python's own classes."""
    return any(name in vars(base) for base in kind.__mro__ if base.__module__ == "builtins")


def _field(field):
    """A field's type and default; of a section its own fields."""
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        default = field.default
    else:
        return f"field: {_type(field.type)}"
    if dataclasses.is_dataclass(default):
        return {inner.name: _field(inner) for inner in dataclasses.fields(default) if not inner.name.startswith("_")}
    return f"field: {_type(field.type)} = {default!r}"


class _Annotation:
    """An annotation without quotes, whether its module has them as text or as objects."""

    def __init__(self, value):
        self.text = value if isinstance(value, str) else inspect.formatannotation(value)

    def __repr__(self):
        return _MODULES.sub("", self.text)


def _type(annotation):
    return repr(_Annotation(annotation))


def _signature(value):
    try:
        found = inspect.signature(value)
    except ValueError:
        return "(…)"
    parameters = [
        parameter
        if parameter.annotation is parameter.empty
        else parameter.replace(annotation=_Annotation(parameter.annotation))
        for parameter in found.parameters.values()
    ]
    back = found.return_annotation if found.return_annotation is found.empty else _Annotation(found.return_annotation)
    return re.sub(r" at 0x[0-9a-f]+", "", str(found.replace(parameters=parameters, return_annotation=back)))
