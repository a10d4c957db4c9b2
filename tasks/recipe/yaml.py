"""Strict YAML files: every refusal names file, line, key and the nearest valid name.

Recipes and training configurations are both read through :func:`load_strict`. The YAML is the safe
subset with the YAML 1.2 core scalars: ``no`` and ``2024-01-01`` stay strings, ``1e-3`` is a float, and
a key that stands twice is refused.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from tasks.errors import RecipeError

Key = str | int
KeyPath = tuple[Key, ...]
OldNames = Mapping[tuple[str, ...], str]  # of keys, by their places in a file: the present name in the same mapping

MAX_FILE_BYTES = 1 << 20


class StrictModel(BaseModel):
    """A model that takes no unknown key and converts no value silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    old_names: ClassVar[OldNames] = {}  # of a model that is a whole file

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                context = {"key": str(key), "hint": _hint(str(key), sorted(cls.model_fields))}
                raise PydanticCustomError("unknown_key", "unknown key; {hint}", context)
        return data

    def replaced(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).model_validate({**self.model_dump(), **changes})


Model = TypeVar("Model", bound=StrictModel)


def refused(at: str, message: str) -> PydanticCustomError:
    """What a model's validator raises against the value at the dotted key ``at``, counted from that model."""
    return PydanticCustomError("refused", "{at}: {message}", {"at": at, "message": message})


def renamed(data: Mapping[str, Any], old_names: OldNames) -> dict[str, Any]:
    """A copy of ``data`` with the keys that were called otherwise under their present names.

    Raises what :func:`refused` makes where both names stand.
    """
    values = dict(data)
    for (*path, old), new in old_names.items():
        if not isinstance(_holder(values, (*path, old)), Mapping):
            continue
        holder = values
        for part in path:
            holder[part] = holder = dict(holder[part])
        if new in holder:
            raise refused(".".join((*path, old)), f"is the old name of {new}, which stands too; keep {new}")
        holder[new] = holder.pop(old)
    return values


def _holder(data: Any, at: tuple[str, ...]) -> Any:
    """The mapping in ``data`` that has the last key of ``at``; None where there is none."""
    *path, last = at
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) and last in data else None


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader restricted to YAML 1.2 core scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


# PyYAML would read a leading zero as octal.
_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def load_strict(path: Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read ``path`` as ``model``, after applying ``overrides`` of the form ``a.b=value`` (value in YAML).

    An override takes the place of the same key under its other name. Raises RecipeError, naming file, line, key and the
    nearest valid name, for anything that is refused.
    """
    data, lines = _read(path)
    for override in overrides:
        _apply(data, override, model.old_names)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = [(_place(data, item, model.old_names), _message(item)) for item in error.errors()]
        raise RecipeError("\n".join(_located(path, lines, overrides, *problem) for problem in found)) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_FILE_BYTES} bytes; expected a small YAML file")
        loader = _CoreLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise RecipeError(f"{path}:1: expected a mapping of keys to values at the top")
        lines: dict[KeyPath, int] = {}
        _collect_lines(path, root, (), lines)
        return loader.construct_document(root), lines
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not UTF-8 text; give the path of a YAML file") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: not valid YAML ({problem or error})") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not valid YAML ({error})") from None


def _collect_lines(path: Path, node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int]) -> None:
    if len(at) > 32:
        raise RecipeError(f"{path}:{node.start_mark.line + 1}: nested more than 32 deep; expected a plain file")
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if (*at, name) in lines:
                raise RecipeError(f"{path}:{line}: key {name!r} stands twice; keep one of them")
            lines[(*at, name)] = line
            _collect_lines(path, value, (*at, name), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_lines(path, value, (*at, index), lines)


def _apply(data: dict[str, Any], override: str, old_names: OldNames) -> None:
    key, sign, value = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise RecipeError(f"--set {override!r}: expected key=value, for example --set grid.zoom=17")
    try:
        given = yaml.load(value, Loader=_CoreLoader)  # noqa: S506 - _CoreLoader is a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"--set value {value!r} is not valid YAML: {error}") from None
    target: Any = data
    for depth, part in enumerate(parts, start=1):
        index: Any = part
        if isinstance(target, list):
            if not part.isdigit() or int(part) >= len(target):
                where = ".".join(parts[:depth])
                raise RecipeError(f"--set {key}: {where} is not one of the {len(target)} entries (0 is the first)")
            index = int(part)
        elif not isinstance(target, dict):
            where = ".".join(parts[: depth - 1])
            raise RecipeError(f"--set {key}: {where} is a single value and has no key {part!r}")
        if depth == len(parts):
            target[index] = given
        elif isinstance(target, dict) and target.get(index) is None:
            target[index] = {}
        target = target[index]
    for old, new in old_names.items():
        pair = (old, (*old[:-1], new))
        if tuple(parts) in pair:
            other = pair[old == tuple(parts)]
            (_holder(data, other) or {}).pop(other[-1], None)


def _place(data: Any, error: ErrorDetails, old_names: OldNames) -> KeyPath:
    """Where in the file, by the names that it has there, an error lies."""
    at, context = _real_path(data, error["loc"]), error.get("ctx", {})
    if error["type"] == "unknown_key":
        at = (*at, str(context["key"]))
    elif error["type"] == "union_tag_invalid":
        at = (*at, str(context["discriminator"]).strip("'"))
    elif error["type"] == "refused":
        at = (*at, *(int(part) if part.isdigit() else part for part in str(context["at"]).split(".")))
    for old, new in old_names.items():
        if at[: len(old)] == (*old[:-1], new) and _holder(data, old) is not None:
            at = (*old, *at[len(old) :])
    return at


def _located(path: Path, lines: dict[KeyPath, int], overrides: Sequence[str], at: KeyPath, message: str) -> str:
    dotted = ".".join(str(part) for part in at)
    if any(override.partition("=")[0].strip() == dotted for override in overrides):
        return f"--set {dotted}: {message}"
    known = at
    while known and known not in lines:
        known = known[:-1]
    return f"{path}:{lines.get(known, 1)}: {dotted or 'the file'}: {message}"


def _message(error: ErrorDetails) -> str:
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "missing":
        return "is required and missing"
    if kind == "union_tag_not_found":
        return f"needs the key {context['discriminator']}, which says what kind it is"
    if kind in ("union_tag_invalid", "literal_error"):
        value, expected = context.get("tag", given), str(context.get("expected_tags") or context["expected"])
        valid = re.findall(r"'([^']+)'", expected) or [expected]
        return f"unknown value {value!r}; {_hint(str(value), valid)}"
    if kind == "refused":
        return str(context["message"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"expected a mapping of keys to values (got {given!r})"
    text = error["msg"].removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    if kind in ("value_error", "unknown_key") or isinstance(given, dict | list):
        return text
    return f"{text} (got {given!r})"


def _hint(given: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    listed = ", ".join(valid)
    return f"did you mean {near[0]!r}? (valid: {listed})" if near else f"valid: {listed}"


def _real_path(data: Any, loc: tuple[Key, ...]) -> KeyPath:
    """``loc`` without the union tags that pydantic puts between the keys of the file."""
    at: list[Key] = []
    here = data
    for position, part in enumerate(loc):
        if isinstance(here, dict) and part not in here and (position < len(loc) - 1 or part in here.values()):
            continue
        at.append(part)
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):  # what is missing, or a single value
            here = None
    return tuple(at)
