"""Recipes, what --set gives, training configurations and lists of tiles."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tasks.recipe.load import load_recipe
from tasks.samples.area import candidate_tiles
from tests.fuzz.case import Case, Kind
from tests.fuzz.pieces import TEXTS, bent, damaged, damaged_text, nested, value
from tests.fuzz.server import Here
from tests.support.recipes import RECIPE, SOURCES, recipe_of, values_of
from training.config import SHIPPED, load_config

_RECIPES = [RECIPE.encode(), *(path.read_bytes() for path in sorted(Path("datasets").glob("*.yaml")))]
_CONFIGS = [path.read_bytes() for path in sorted(SHIPPED.glob("*.yaml"))]
_ODD_YAML = [
    b"a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n",
    b"a: &a\n  b: *a\n",
    b"<<: &a {name: x}\ntitle: *a\n",
    b"<<: [{name: x}, {title: y}]\n<<: z\n",
    b"? [a, b]\n: c\n? {x: y}\n: z\n",
    b"? - a\n: - b\n",
    b"name: !!python/object/apply:os.system [x]\n",
    b"name: !!binary ////\n",
    b"name: !!int x\n",
    b"name: !!float x\nseed: !!bool 7\n",
    b"name: !!set {a, b}\ntitle: !!omap [a: 1]\n",
    b"name: !!timestamp nonsense\n",
    b"name: !!null x\ntitle: !!str\n",
    b"name: !x y\ntitle: !<tag:yaml.org,2002:int> 08\n",
    b"--- {name: a}\n--- {name: b}\n",
    b"%YAML 9.9\n---\nname: a\n",
    b"%TAG ! !! !\n---\nname: a\n",
    b"name: |\n a\n  b\n c\ntitle: >9\n x\n",
    b"\tname: a\n",
    b"name: a: b\n",
    b"name: 'a\n",
    b"1: a\n1.5: b\nnull: c\ntrue: d\n",
    b"- a\n- b\n",
    b"name: " + b"9" * 5000 + b"\n",
    b"name: 1e999999\nseed: -.inf\ntitle: .nan\n",
    b"\xff\xfen\0a\0m\0e\0:\0 \0a\0",
    b"".join(b"k%d: 1\n" % i for i in range(3000)),
    b"{" * 500,
    b"splits: {groups: {train: [a, a], test: [a]}}\n",
    b"",
    b"\0",
    b"#",
]


def _yaml(random: Random, shipped: list[bytes], values: Callable[[Random], Any]) -> bytes:
    how = random.randrange(10)
    if how < 5:
        text = yaml.safe_dump(bent(random, values(random)), sort_keys=False, allow_unicode=random.random() < 0.3)
        return text.encode("utf-8", "surrogatepass")
    if how < 8:
        return damaged_text(random, random.choice(shipped))
    if how == 8:
        return damaged(random, random.choice(shipped))
    odd = random.choice([*_ODD_YAML, b"name: " + nested(random)])
    return odd if random.random() < 0.5 else random.choice([odd + random.choice(shipped), damaged_text(random, odd)])


def _recipe(random: Random) -> Case:
    return Case({"recipe.yaml": _yaml(random, _RECIPES, lambda random: values_of(random.choice(SOURCES)))})


def _load(folder: Path, case: Case, here: Here) -> None:
    loaded = load_recipe(folder / "recipe.yaml", case.words)
    loaded.hash(), loaded.content_hash(), loaded.identity(), loaded.public()


_KEYS = (
    *("name", "area.bbox", "area.bbox.0", "area.place", "area.sample", "grid.zoom", "imagery", "imagery.url", "splits"),
    *(
        "imagery.bands",
        "imagery.bands.9",
        "labels.path",
        "classes",
        "classes.0.value",
        "classes.1.source_values",
        "resize",
    ),
    *(
        "filter.min_fraction",
        "splits.groups.train",
        "limits.patience",
        "clouds.mask",
        "imagery.cells.size",
        "ignore",
        "a",
    ),
    *(
        "imagery.headers.X",
        "imagery.group",
        "imagery.windows.size",
        "splits.reserve",
        "splits.holdout",
        "about",
        "title",
    ),
    *(
        "",
        ".",
        "..",
        "a..b",
        "name.x",
        "classes.x",
        "classes.-1",
        "classes.\u0663",
        "classes.²",
        "classes." + "9" * 30,
        "\0",
    ),
)
_VALUES = (
    "[1,2",
    "{a: b",
    "*a",
    "&a x",
    "!!python/name:os.system x",
    "- a",
    "a: b",
    "---\n...\n---\n",
    "%x",
    "\t",
    "1" * 5000,
)


_MILD = ("title=a", "grid.zoom=16", "limits.patience=9", "name=x", "splits.seed=7", "filter.max_nodata_fraction=0.5")


def _set(random: Random) -> Case:
    words = []
    for _ in range(random.randint(1, 3)):
        key = random.choice(TEXTS) if random.random() < 0.2 else random.choice(_KEYS)
        how = random.randrange(4)
        if random.random() < 0.5:  # nothing odd about it
            words.append(random.choice(_MILD))
            continue
        told = (
            random.choice([*_VALUES, nested(random).decode()]) if how == 0 else str(random.choice([value(random), "1"]))
        )
        words.append(random.choice([f"{key}={told}"] * 12 + [key, f" {key} = {told} ", f"={told}", f"{key}=={told}"]))
    recipe = yaml.safe_dump(values_of(random.choice(SOURCES)), sort_keys=False)
    return Case({"recipe.yaml": recipe.encode()}, words)


def _config(random: Random) -> Case:
    data = _yaml(random, _CONFIGS, lambda random: yaml.safe_load(random.choice(_CONFIGS)))
    return Case({"config.yaml": data}, [f"batch={value(random)}"] if random.random() < 0.1 else [])


def _load_config(folder: Path, case: Case, here: Here) -> None:
    load_config(str(folder / "config.yaml"), case.words).hash()


def _tiles(random: Random) -> Case:
    z = random.choice([0, 3, 16, 16, 16, 24])
    lines = [f"{z}/{random.randrange(1 << z)}/{random.randrange(1 << z)}" for _ in range(random.choice([0, 1, 5, 300]))]
    odd = [
        "1/2",
        "16/1/2/3",
        "a/b/c",
        "-1/0/0",
        "16/65536/0",
        "16/0/-1",
        "99/0/0",
        "16/1e3/2",
        "16/\u0661/\u0662",
        " 16 / 1 / 2 ",
    ]
    odd += [
        "16/1/2 # why",
        "#",
        "\ufeff16/1/2",
        "16\\1\\2",
        "16/" + "1" * 5000 + "/2",
        "0x10/1/2",
        "16/1_0/2",
        "+16/1/2",
    ]
    for _ in range(random.choice([0, 1, 3])):
        lines.insert(random.randint(0, len(lines)), random.choice(odd + list(TEXTS)))
    data = random.choice(["\n", "\r\n", "\n\n"]).join(lines).encode("utf-8", "surrogatepass")
    if random.random() < 0.4:
        data = random.choice([damaged, damaged_text])(random, data)
    return Case({"tiles.txt": data}, random.choice([[], [], ["1"], ["7"], ["1000"]]))


def _candidates(folder: Path, case: Case, here: Here) -> None:
    sample = {"area.sample": int(case.words[0])} if case.words else {}
    area = {"area": {"tiles": "tiles.txt"}, "grid.zoom": 16, "limits": {"max_tiles": 200, "max_failed_fraction": 1.0}}
    recipe = recipe_of("xyz", area | ({"limits.max_tiles": 10_000} | sample if sample else {}), folder)
    candidate_tiles(recipe, folder / "work")


RECIPES = Kind(_recipe, _load, ("recipe.yaml",), 14)
SETTINGS = Kind(_set, _load, ("--set", "recipe.yaml"), 10)
CONFIGS = Kind(_config, _load_config, ("config.yaml", "--set"), 6)
TILE_LISTS = Kind(_tiles, _candidates, ("tiles.txt", "area"), 6)
