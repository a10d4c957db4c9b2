"""Strict YAML files: every refusal names file, line, key and the nearest valid name.

Recipes and training configurations are both read through :func:`load_strict`. The YAML is the safe
subset with the YAML 1.2 core scalars: ``no`` and ``2024-01-01`` stay strings, ``1e-3`` is a float, and
a key that stands twice is refused.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from tasks.errors import RecipeError

Key = str | int
KeyPath = tuple[Key, ...]

MAX_FILE_BYTES = 1 << 20


class StrictModel(BaseModel):
    """A model that takes no unknown key and converts no value silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key; {hint}",
                        {"key": str(key), "hint": _hint(str(key), sorted(cls.model_fields))},
                    )
        return data

    def replaced(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).model_validate({**self.model_dump(), **changes})


Model = TypeVar("Model", bound=BaseModel)


class RefusedValueError(ValueError):
    """Why the function that chooses a model refuses a value of the file, and where that stands."""

    def __init__(self, at: KeyPath, given: str, valid: Sequence[str]) -> None:
        """``valid``: the values that could stand there."""
        super().__init__(f"unknown value {given!r}; {_hint(given, valid)}")
        self.at = at


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


def load_strict(
    path: Path, model: type[Model] | Callable[[Mapping[str, Any]], type[Model]], overrides: Sequence[str] = ()
) -> Model:
    """Read ``path`` as ``model``, after applying ``overrides`` of the form ``a.b=value`` (value in YAML).

    model: a model, or what chooses one from the file's values.
    Raises RecipeError, naming file, line, key and the nearest valid name, for anything that is refused.
    """
    data, lines = _read(path)
    for override in overrides:
        _apply(data, override)
    try:
        chosen: type[Model] = model if isinstance(model, type) else model(data)
    except RefusedValueError as refused:
        raise RecipeError(_located(path, lines, overrides, refused.at, str(refused))) from None
    try:
        return chosen.model_validate(data)
    except ValidationError as error:
        problems = [_describe(path, data, lines, overrides, item) for item in error.errors()]
        raise RecipeError("\n".join(problems)) from None


def parse_scalar(text: str) -> Any:
    """One YAML value, as ``--set key=value`` takes it. Raises RecipeError."""
    try:
        return yaml.load(text, Loader=_CoreLoader)  # noqa: S506 - _CoreLoader is a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"--set value {text!r} is not valid YAML: {error}") from None


def _read(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_FILE_BYTES} bytes; expected a small YAML file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not UTF-8 text; give the path of a YAML file") from None
    loader = None
    try:
        loader = _CoreLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise RecipeError(f"{path}:1: expected a mapping of keys to values at the top")
        lines: dict[KeyPath, int] = {}
        _collect_lines(path, root, (), lines, depth=0)
        data = loader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"{path}{line}: not valid YAML ({problem})") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not valid YAML ({error})") from None
    finally:
        if loader is not None:
            loader.dispose()
    return data, lines


def _collect_lines(path: Path, node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], depth: int) -> None:
    if depth > 32:
        raise RecipeError(f"{path}:{node.start_mark.line + 1}: nested more than 32 deep; expected a plain file")
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                raise RecipeError(f"{path}:{line}: key {name!r} stands twice; keep one of them")
            seen.add(name)
            lines[(*at, name)] = line
            _collect_lines(path, value, (*at, name), lines, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_lines(path, value, (*at, index), lines, depth + 1)


def _apply(data: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise RecipeError(f"--set {override!r}: expected key=value, for example --set grid.zoom=17")
    target: Any = data
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        where = ".".join(parts[: depth + 1])
        if isinstance(target, list):
            if not part.isdigit() or int(part) >= len(target):
                raise RecipeError(f"--set {key}: {where} is not one of the {len(target)} entries (0 is the first)")
            index: Any = int(part)
        elif isinstance(target, dict):
            index = part
        else:
            raise RecipeError(f"--set {key}: {'.'.join(parts[:depth])} is a single value and has no key {part!r}")
        if last:
            target[index] = parse_scalar(value)
        else:
            if isinstance(target, dict) and target.get(index) is None:
                target[index] = {}
            target = target[index]


def _describe(path: Path, data: Any, lines: dict[KeyPath, int], overrides: Sequence[str], error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    at = _real_path(data, error["loc"])
    if error["type"] == "unknown_key":
        at = (*at, str(context["key"]))
    return _located(path, lines, overrides, at, _message(error, context))


def _located(path: Path, lines: dict[KeyPath, int], overrides: Sequence[str], at: KeyPath, message: str) -> str:
    dotted = ".".join(str(part) for part in at)
    if any(override.partition("=")[0].strip() == dotted for override in overrides):
        return f"--set {dotted}: {message}"
    known = at
    while known and known not in lines:
        known = known[:-1]
    return f"{path}:{lines.get(known, 1)}: {dotted or 'the file'}: {message}"


def _message(error: ErrorDetails, context: Mapping[str, Any]) -> str:
    kind, given = error["type"], error.get("input")
    if kind == "missing":
        return "is required and missing"
    if kind == "union_tag_not_found":
        key = str(context["discriminator"]).strip("'")
        return f"needs the key {key!r}, which says what kind it is"
    if kind == "union_tag_invalid":
        key = str(context["discriminator"]).strip("'")
        return f"{key}: unknown value {context['tag']!r}; {_hint(context['tag'], _quoted(context['expected_tags']))}"
    if kind == "literal_error":
        return f"unknown value {given!r}; {_hint(str(given), _quoted(str(context['expected'])))}"
    text = error["msg"].removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    if kind in ("value_error", "unknown_key") or isinstance(given, (dict, list)):
        return text
    return f"{text} (got {given!r})"


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']+)'", text)


def _hint(given: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    listed = ", ".join(valid)
    return f"did you mean {near[0]!r}? (valid: {listed})" if near else f"valid: {listed}"


def _real_path(data: Any, loc: tuple[Key, ...]) -> KeyPath:
    """``loc`` without the union tags that pydantic puts between the keys of the file."""
    at: list[Key] = []
    here = data
    for position, part in enumerate(loc):
        if isinstance(here, dict) and part not in here and position < len(loc) - 1:
            continue
        if isinstance(here, dict) and part not in here and part in here.values():
            continue
        at.append(part)
        if isinstance(here, dict):
            here = here.get(str(part))
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            here = None
    return tuple(at)
