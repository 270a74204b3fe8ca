"""Fields of nested dataclasses from the command line and from TOML files, by dotted names such as `comae.steps`.

Forty lines on `typing.get_type_hints`: pydantic, tyro or OmegaConf would add a dependency and its import time, and need as many.
"""

import ast
import dataclasses
import difflib
import inspect
import tomllib
import typing
from collections.abc import Iterable
from pathlib import Path


def value(text: str):
    """A word of the command line as what it is: true, false, none, a number or a list; anything else is text."""
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def fields(kind: type) -> dict[str, type]:
    """Every field of a dataclass, and of the dataclasses among its fields, with its type."""
    found = {}
    for name, of in typing.get_type_hints(kind).items():
        parts = typing.get_type_hints(of) if dataclasses.is_dataclass(of) else {}
        found |= {f"{name}.{part}": of_part for part, of_part in parts.items()} or {name: of}
    return found


def flat(config) -> dict:
    """The values of `fields`."""
    found = {}
    for name in fields(type(config)):
        part, _, field = name.rpartition(".")
        found[name] = getattr(getattr(config, part) if part else config, field)
    return found


def with_fields(config, changes: Iterable[tuple[str, object]]):
    """A dataclass with fields replaced; text counts as `value` where a field holds none. Raises ValueError for an unknown
    name, which names the nearest known one, and for a value of another type."""
    kinds = fields(type(config))
    for name, new in changes:
        if name not in kinds:
            (nearest,) = difflib.get_close_matches(name, kinds, 1, 0)
            raise ValueError(f"unknown field {name!r}; the nearest known one is {nearest!r}")
        try:
            new = _typed(new, kinds[name])
        except TypeError:
            raise ValueError(f"{name} is {new!r}; expected {inspect.formatannotation(kinds[name])}") from None
        part, _, field = name.rpartition(".")
        inner = dataclasses.replace(getattr(config, part), **{field: new}) if part else new
        config = dataclasses.replace(config, **{part or field: inner})
    return config


def _typed(new, kind):
    """A value as a field's type: whole numbers do for floats, lists for tuples. Raises TypeError for another type."""
    options = typing.get_args(kind)
    if type(None) in options:
        if new is None or isinstance(new, str) and new.lower() == "none":
            return None
        kind, options = options[0], typing.get_args(options[0])
    new = value(new) if isinstance(new, str) and kind is not str else new
    if options and isinstance(new, list | tuple) and (... in options or len(new) == len(options)):
        return tuple(_typed(x, options[0]) for x in new)
    if type(new) is kind or kind is float and type(new) is int:
        return kind(new)
    raise TypeError


def tables(file: Path) -> dict:
    """The values of a TOML file by dotted names. Raises FileNotFoundError, or ValueError naming the file."""
    if not file.is_file():
        raise FileNotFoundError(f"no profile {file}: there is no such file")
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no TOML file: {error}") from None
    parts = [{f"{k}.{field}": x for field, x in v.items()} if isinstance(v, dict) else {k: v} for k, v in found.items()]
    return {name: x for part in parts for name, x in part.items()}
