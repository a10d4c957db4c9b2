"""Strict YAML files: every refusal names file, line, key and the nearest valid name.

Recipes and training configurations are both read through :func:`load_strict`; what YAML they may hold, and how much of
it, is said in :mod:`tasks.recipe.document`.
"""

import difflib
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from tasks.errors import RecipeError
from tasks.recipe.document import MAX_BYTES, MAX_DEPTH, MAX_SHOWN, Key, KeyPath, Lines, parse, shown

OldNames = Mapping[tuple[str, ...], str]  # of keys, by their places in a file: the present name in the same mapping

MAX_PROBLEMS = 10  # that are told of one file
_EXPECTED = "give the path of a YAML file"


class StrictModel(BaseModel):
    """A model that takes no unknown key and converts no value silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

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


def is_file(path: Path) -> bool:
    """Whether a path is a file, or a link to one; no for what cannot be one, as a name that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


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
        found = [(_place(data, item, model.old_names), _message(item)) for item in error.errors()[:MAX_PROBLEMS]]
        told = [_located(path, lines, overrides, *problem) for problem in found]
        more = error.error_count() - len(told)
        raise RecipeError("\n".join([*told, *([f"{path}: and {more:,} more"] if more else [])])) from None


def _read(path: Path) -> tuple[dict[str, Any], Lines]:
    name = shown(str(path))
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening another kind may wait for ever
            raise RecipeError(f"{name}: is a {'folder' if stat.S_ISDIR(mode) else 'special file'}; {_EXPECTED}")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise RecipeError(f"{name}: larger than {MAX_BYTES:,} bytes; expected a small YAML file")
        data, lines = parse(raw.decode(), lambda line: f"{name}:{line}")
    except OSError as error:
        raise RecipeError(f"{name}: cannot be read ({error.strerror}); {_EXPECTED}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{name}: is not UTF-8 text; {_EXPECTED}") from None
    except ValueError as error:  # of a path with a NUL
        raise RecipeError(f"{name}: is no path ({error}); {_EXPECTED}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{name}:1: expected a mapping of keys to values at the top")
    return data, lines


def _apply(data: dict[str, Any], override: str, old_names: OldNames) -> None:
    key, sign, value = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        start = re.match(r"[\w.-]*", override.strip()).group()  # type: ignore[union-attr]  # no value: it may be secret
        raise RecipeError(f"--set {shown(start)!r}: expected key=value, for example --set grid.zoom=17")
    if len(parts) > MAX_DEPTH or max(map(len, parts)) > MAX_SHOWN or not key.isprintable():
        raise RecipeError(f"--set {shown(key)}: is no key; expected names with dots between them, as in grid.zoom")
    if len(value) > MAX_BYTES:
        raise RecipeError(f"--set {key.strip()}: its value is larger than {MAX_BYTES:,} bytes; write it in the file")
    given, _ = parse(value, lambda _: f"--set {key.strip()}: its value")
    target: Any = data
    for depth, part in enumerate(parts, start=1):
        index: Any = part
        if isinstance(target, list):
            if not _is_index(part) or int(part) >= len(target):
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


def _is_index(part: str) -> bool:
    return re.fullmatch("[0-9]{1,9}", part) is not None


def _place(data: Any, error: ErrorDetails, old_names: OldNames) -> KeyPath:
    """Where in the file, by the names that it has there, an error lies."""
    at, context = _real_path(data, error["loc"]), error.get("ctx", {})
    if error["type"] == "unknown_key":
        at = (*at, str(context["key"]))
    elif error["type"] == "union_tag_invalid":
        at = (*at, str(context["discriminator"]).strip("'"))
    elif error["type"] == "refused":
        at = (*at, *(int(part) if _is_index(part) else part for part in str(context["at"]).split(".")))
    for old, new in old_names.items():
        if at[: len(old)] == (*old[:-1], new) and _holder(data, old) is not None:
            at = (*old, *at[len(old) :])
    return at


def _located(path: Path, lines: Lines, overrides: Sequence[str], at: KeyPath, message: str) -> str:
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
        return f"unknown value {shown(repr(value))}; {_hint(str(value), valid)}"
    if kind == "refused":
        return str(context["message"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"expected a mapping of keys to values (got {shown(repr(given))})"
    text = error["msg"].removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    if kind in ("value_error", "unknown_key") or isinstance(given, dict | list):
        return text
    return f"{text} (got {shown(repr(given))})"


def _hint(given: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(given[:MAX_SHOWN], valid, n=1, cutoff=0.5)
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
