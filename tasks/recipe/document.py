"""YAML text as plain values, within bounds: what nobody would write by hand is refused before it costs a second.

The YAML is the safe subset with the YAML 1.2 core scalars: ``no`` and ``2024-01-01`` stay strings, ``1e-3`` is a float.
Keys are text and stand once. An alias is a copy of what it stands for, and is counted as one.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml

from tasks.errors import RecipeError, shortened

Key = str | int
KeyPath = tuple[Key, ...]
Lines = dict[KeyPath, int]  # of what stands at a place in a file, counted from 1

MAX_BYTES = 1 << 17  # of a file or a value
MAX_NODES = 10_000  # keys' values and entries of lists
MAX_DEPTH = 32  # of mappings and lists in one another
MAX_DIGITS = 18  # of a whole number, which is less than 2^63 then
MAX_SHOWN = 200  # characters of a key, and of what a message repeats

_PREFIX = "tag:yaml.org,2002:"
_STR, _INT, _MAP, _SEQ = (_PREFIX + kind for kind in ("str", "int", "map", "seq"))
# Control characters but tab and newline, and halves of surrogate pairs: no file's name, and no text, has them.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class _RefusedError(yaml.MarkedYAMLError):
    """What YAML allows and we do not."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader restricted to YAML 1.2 core scalars, which stops at a text that is too large or too deep."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._nodes += 1
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        _check_size(self._nodes // 2, self._depth - 2, mark)  # keys are nodes here
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _check_size(nodes: int, depth: int, mark: Any) -> None:
    if nodes > MAX_NODES:
        raise _RefusedError(
            f"has more than {MAX_NODES:,} values, aliases counted as copies; expected a small file", mark
        )
    if depth > MAX_DEPTH:
        raise _RefusedError(f"nested more than {MAX_DEPTH} deep; expected a plain file", mark)


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
    _CoreLoader.add_implicit_resolver(f"{_PREFIX}{_tag}", re.compile(_pattern), list(_first))


def parse(text: str, where: Callable[[int], str]) -> tuple[Any, Lines]:
    """The value that ``text`` is, and the lines of all that is in it. The value of an empty text is None.

    ``where`` says for messages what stands at a line. Raises RecipeError.
    """
    lines: Lines = {}
    try:
        loader = _CoreLoader(text)
        root = loader.get_single_node()
        return (None if root is None else _Reader(loader, lines).value(root, ())), lines
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        told = shown(" ".join(problem.split()))
        told = told if isinstance(error, _RefusedError) else f"not valid YAML ({told})"
        raise RecipeError(f"{where(mark.line + 1 if mark else 1)}: {told}") from None


def shown(text: str) -> str:
    """``text`` in one line and no longer than a message may be."""
    text = text if text.isprintable() else repr(text)
    return shortened(text, MAX_SHOWN)


class _Reader:
    """Turns nodes into values and notes their lines."""

    def __init__(self, loader: _CoreLoader, lines: Lines) -> None:
        self._loader, self._lines, self._count = loader, lines, 0

    def value(self, node: yaml.Node, at: KeyPath) -> Any:
        self._count += 1
        _check_size(self._count, len(at), node.start_mark)
        self._lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return {name: self.value(value, (*at, name)) for name, value in self._named(node, at)}
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
            return [self.value(value, (*at, index)) for index, value in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise yaml.constructor.ConstructorError(problem=f"unknown tag {node.tag}", problem_mark=node.start_mark)

    def _named(self, node: yaml.MappingNode, at: KeyPath) -> Any:
        for key, value in node.value:
            name = self._scalar(key) if isinstance(key, yaml.ScalarNode) else None
            if not isinstance(name, str):
                raise _RefusedError("a key here is no text; put it in quotes if it is meant to be one", key.start_mark)
            if len(name) > MAX_SHOWN:
                raise _RefusedError(f"a key here is longer than {MAX_SHOWN} characters", key.start_mark)
            if (*at, name) in self._lines:
                raise _RefusedError(f"key {name!r} stands twice; keep one of them", key.start_mark)
            self._lines[(*at, name)] = key.start_mark.line + 1
            yield name, value

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, node.tag
        if _UNFIT.search(text):
            raise _RefusedError("a control character, or half a surrogate pair, in a text; remove it", node.start_mark)
        if kind == _STR:
            return text
        plain = self._loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        if plain != kind:  # also of tags that make objects
            raise yaml.constructor.ConstructorError(problem=f"no value of the tag {kind}", problem_mark=node.start_mark)
        if kind == _INT:
            if len(text.lstrip("+-0")) > MAX_DIGITS:
                raise _RefusedError(f"a whole number of more than {MAX_DIGITS} digits", node.start_mark)
            return int(text)  # PyYAML would read a leading zero as octal
        return self._loader.construct_object(node)
