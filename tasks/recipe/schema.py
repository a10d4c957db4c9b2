"""The JSON Schema of recipes (draft 2020-12), made from the model, by which an editor completes and checks them.

``python -m tasks.recipe.schema`` writes it to ``datasets/recipe.schema.json``. It takes every recipe that
:func:`tasks.recipe.load.load_recipe` takes; what makes sense together is checked by the model alone. Descriptions are
the models' docstrings and the strings below their keys; they are read from the source only here, which costs time.
"""

import ast
import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from tasks.recipe.model import Recipe
from tasks.recipe.parts import MANNER
from tasks.recipe.sources import SLIPPY_SOURCES
from tasks.recipe.yaml import StrictModel

FILE = Path("datasets/recipe.schema.json")
MARK = "x-tilewright"  # says of a property whether it is content or manner
_DEFAULT_VARIES = {("Splits", "by")}  # with the source of the imagery, so an editor must not write one down


def recipe_schema() -> dict[str, Any]:
    """The schema, as JSON takes it."""
    schema: dict[str, Any] = Recipe.model_json_schema(schema_generator=_Generator)
    for old, new in Recipe.old_names.items():
        _add_old_name(schema, old, new)
    slippy = {"properties": {"source": {"enum": list(SLIPPY_SOURCES)}}, "required": ["source"]}
    schema["if"] = {"properties": {"imagery": slippy}, "required": ["imagery"]}
    schema["then"] = {"required": ["area", "grid"]}
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": "A recipe of Tilewright", **schema}


def schema_text() -> str:
    """What the file holds."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


class _Generator(GenerateJsonSchema):
    """Pydantic's, with descriptions, marks, and unions that an editor can follow."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - titles repeat the keys
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        model: type[BaseModel] = schema["cls"]
        made = super().model_schema(schema)
        made.pop("title")
        made["description"] = _text(model.__doc__ or "")
        for key, text in _descriptions(model).items():
            made["properties"][key]["description"] = text
        for key, value in made["properties"].items():
            if "$ref" in value or value.get("default") is None or (model.__name__, key) in _DEFAULT_VARIES:
                value.pop("default", None)
            value[MARK] = MANNER if MANNER in model.model_fields[key].metadata else "content"
        return made

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """A branch for each tag: an editor then offers the keys of the one that is written, and names what it lacks."""
        tag = str(schema["discriminator"])
        branches = {str(value): self.generate_inner(choice) for value, choice in schema["choices"].items()}
        return {
            "type": "object",
            "properties": {tag: {"enum": list(branches), MARK: "content"}},
            "required": [tag],
            "allOf": [
                {"if": {"properties": {tag: {"const": value}}, "required": [tag]}, "then": branch}
                for value, branch in branches.items()
            ],
        }


def _add_old_name(schema: dict[str, Any], old: tuple[str, ...], new: str) -> None:
    """Allow the key ``old`` in place of ``new`` in the same mapping."""
    holder = schema
    for part in old[:-1]:
        holder = schema["$defs"][holder["properties"][part]["$ref"].rpartition("/")[2]]
    present = holder["properties"][new]
    holder["properties"][old[-1]] = {**present, "description": f"The old name of {new}.", "deprecated": True}
    holder["not"] = {"required": [old[-1], new]}


def _descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The strings that stand below the keys of a model, those it inherits included."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, StrictModel) and base is not StrictModel:
            (definition,) = ast.parse(inspect.getsource(base)).body
            for pair in pairwise(ast.iter_child_nodes(definition)):
                match pair:
                    case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                        found[key] = _text(text)
    return found


def _text(docstring: str) -> str:
    """A docstring as Markdown, each paragraph in one line."""
    paragraphs = inspect.cleandoc(docstring).replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


if __name__ == "__main__":
    FILE.write_text(schema_text(), encoding="utf-8")
