import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RecipeError
from tasks.recipe.load import Recipe, find_recipe, load_recipe
from tests.support.recipes import RECIPE, write_recipe

SCENES = """\
name: scenes
title: Scenes
imagery:
  source: scenes
  images: images/{scene}.tif
  bands: [red]
  windows: {size: 64}
labels: {source: rasters, path: "labels/{scene}.tif"}
classes:
  [{name: background, value: 0, color: "#000000"}, {name: building, value: 1, color: "#ffffff"}]
"""
SHIPPED = sorted((Path(__file__).parents[3] / "datasets").glob("*.yaml"))


def test_the_example_reads(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    assert recipe.grid.zoom == 20
    assert recipe.filter.min_building_fraction == 0.15
    assert recipe.resolve("tiles.txt") == tmp_path / "tiles.txt"
    assert recipe.building_value == 1
    assert (recipe.cells.size, recipe.resize) == (256, None)
    assert recipe.block_zoom == 16


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_read_and_are_named_as_their_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_the_papers_france_is_shipped() -> None:
    recipe = load_recipe(next(path for path in SHIPPED if path.stem == "osm-france"))
    assert recipe.area.sample == 34_547
    assert recipe.resize == 224
    assert (recipe.filter.min_building_fraction, recipe.grid.tile_size) == (0.15, 256)
    assert (recipe.splits.train, recipe.splits.validation, recipe.splits.test) == (0.70, 0.15, 0.15)
    assert (recipe.imagery.source, recipe.labels.source) == ("mapbox", "pbf")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("imagery: {source: xyz", "imagery: {sauce: xyz", r"bad\.yaml:5: imagery: needs the key 'source'"),
        ("filter:", "filtre:", r"bad\.yaml:8: filtre: unknown key; did you mean 'filter'\?"),
        ("zoom: 20", "zoom: 99", r"bad\.yaml:4: grid\.zoom: .*less than or equal to 24 \(got 99\)"),
        ("zoom: 20", "zoom: '20'", r"bad\.yaml:4: grid\.zoom: .*valid integer \(got '20'\)"),
        ("tile_size: 256", "tile_size: 300", r"bad\.yaml:4: grid\.tile_size: unknown value 300; valid: 256 or 512"),
        ("zoom: 20", "zom: 20", r"bad\.yaml:4: grid\.zom: unknown key; did you mean 'zoom'\?"),
        (
            "source: vector",
            "source: vectr",
            r"bad\.yaml:6: labels\.source: unknown value 'vectr'; did you mean 'vector'",
        ),
        ("path: buildings.geojson", "pth: b.geojson", r"bad\.yaml:6: labels\.pth: unknown key; did you mean 'path'\?"),
        (
            "{min_building_fraction: 0.15, max_nodata_fraction: 0.05}",
            "3",
            r"bad\.yaml:8: filter: expected a mapping of",
        ),
        ("by: block", "by: blok", r"bad\.yaml:10: splits\.by: unknown value 'blok'; did you mean 'block'\?"),
        ("train: 0.70", "train: 0.80", r"bad\.yaml:10: splits: train, validation and test must sum to 1"),
        ("block_zoom: 16", "block_zoom: 21", r"block_zoom 21 is deeper than grid.zoom 20"),
        ("{tiles: tiles.txt}", "{tiles: t.txt, place: X}", r"bad\.yaml:3: area: needs exactly one of"),
        ("{tiles: tiles.txt}", "{bbox: [3, 2, 1]}", r"bad\.yaml:3: area\.bbox: expected \[west"),
        ("name: building", "name: house", r"classes: expected a class named building"),
        ('"#ffffff"', "white", r"bad\.yaml:7: classes\.1\.color: "),
        ("title: Buildings of Zanzibar", "", r"bad\.yaml:1: title: is required and missing"),
        ("{z}/{x}/{y}.png", "{z}/{x}/{k}.png", r"unknown placeholder \{k\}"),
        ("resize: null", "resize: null\nresize: 224", r"bad\.yaml:10: key 'resize' stands twice"),
        ("resize: null", "resize: }", r"bad\.yaml:9: not valid YAML"),
    ],
)
def test_a_refusal_names_file_line_key_and_the_nearest_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    path = tmp_path / "bad.yaml"
    path.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("ignore: 1", r"old\.yaml:11: ignore: 1 is the value of a class; choose"),
        ("ignore: 300", r"old\.yaml:11: ignore: .*less than or equal to 255 \(got 300\)"),
        ("ignore: none", r"old\.yaml:11: ignore: .*valid integer \(got 'none'\)"),
        (
            "ignore: 255\nignore_index: 255",
            r"old\.yaml:11: ignore: is the old name of ignore_index, .*; keep ignore_in",
        ),
        ("ignore_index: 255\nignore: 255", r"old\.yaml:12: ignore: is the old name of ignore_index, which stands too"),
        ("splits:\n  by: group\n  reserve: 0.2", r"old\.yaml:13: splits\.reserve: goes with splits\.by: scene"),
        ("splits:\n  reserve: 2", r"old\.yaml:12: splits\.reserve: .*less than or equal to 1 \(got 2\)"),
        (
            "splits:\n  reserve: 0.2\n  holdout: 0.2",
            r"old\.yaml:12: splits\.reserve: is the old name of holdout, which",
        ),
        ("splits: 3", r"old\.yaml:11: splits: expected a mapping of keys to values \(got 3\)"),
    ],
)
def test_old_names_are_refused_where_and_as_they_stand(tmp_path: Path, more: str, message: str) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(SCENES + more)
    with pytest.raises(RecipeError, match=f"^{re.escape(str(tmp_path))}/{message}"):
        load_recipe(path)


def test_old_names_go_on_working(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(SCENES + "ignore: 9\nsplits: {reserve: 0.2}")
    (tmp_path / "new.yaml").write_text(SCENES + "ignore_index: 9\nsplits: {holdout: 0.2}")
    old, new = load_recipe(tmp_path / "old.yaml"), load_recipe(tmp_path / "new.yaml")
    assert (old.ignore_index, old.splits.holdout) == (9, 0.2)
    assert old == new
    assert old.identity() == new.identity()
    assert (old.identity()["ignore"], old.identity()["splits.reserve"]) == (9, 0.2)


@pytest.mark.parametrize("names", [("ignore", "reserve"), ("ignore_index", "holdout")])
@pytest.mark.parametrize("given", [("ignore", "reserve"), ("ignore_index", "holdout")])
def test_an_override_may_use_either_name(tmp_path: Path, names: tuple[str, str], given: tuple[str, str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(SCENES + f"{names[0]}: 9\nsplits: {{{names[1]}: 0.2}}")
    recipe = load_recipe(path, [f"{given[0]}=7", f"splits.{given[1]}=0.3"])
    assert (recipe.ignore_index, recipe.splits.holdout) == (7, 0.3)
    with pytest.raises(RecipeError, match=rf"^--set splits\.{given[1]}: .*less than or equal to 1"):
        load_recipe(path, [f"splits.{given[1]}=3"])


def test_several_problems_are_told_at_once(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, ("zoom: 20", "zoom: 99"), ("by: block", "by: blok"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.zoom=99", r"--set grid\.zoom: .*less than or equal to 24"),
        ("grid.zom=9", r"--set grid\.zom: unknown key; did you mean 'zoom'"),
        ("grid", r"--set 'grid': expected key=value"),
        ("name.deep=1", r"name is a single value"),
        ("classes.7.name=x", r"classes.7 is not one of the 2 entries"),
        ("grid.zoom=[", r"not valid YAML"),
    ],
)
def test_a_bad_override_is_told_as_one(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write_recipe(tmp_path), [override])


def test_overrides_change_values_of_every_depth(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path),
        ["grid.zoom=19", "resize=224", "classes.1.name=building", "area.sample=5", "splits.seed=3"],
    )
    assert (recipe.grid.zoom, recipe.resize, recipe.area.sample, recipe.splits.seed) == (19, 224, 5, 3)


def test_yaml_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path, ("title: Buildings of Zanzibar", "title: no")), ["filter.max_nodata_fraction=5e-2"]
    )
    assert recipe.title == "no"
    assert recipe.filter.max_nodata_fraction == 0.05


def test_tags_that_make_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(write_recipe(tmp_path, ("title: Buildings of Zanzibar", "title: !!python/name:os.system")))


@pytest.mark.parametrize("content", ["", "- 1", "42", "\x00", "a: &a [*a]"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError):
        load_recipe(path)


@given(st.text(max_size=200))
def test_only_recipe_errors_come_out_of_any_text(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        with pytest.raises(RecipeError):
            load_recipe(path)


def test_the_hash_is_of_values_not_of_layout(tmp_path: Path) -> None:
    one = load_recipe(write_recipe(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    two = load_recipe(write_recipe(other, ("name: zanzibar", "# a comment\nname:   zanzibar")))
    assert one.hash() == two.hash()
    assert one.hash() != load_recipe(write_recipe(tmp_path), ["grid.zoom=19"]).hash()


def test_a_recipe_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets").mkdir()
    write_recipe(tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    assert find_recipe("zanzibar") == Path("datasets/zanzibar.yaml")
    with pytest.raises(RecipeError, match=r"osm-mars: neither .* \(there: zanzibar\)"):
        find_recipe("osm-mars")
    with pytest.raises(RecipeError, match="no such recipe file"):
        find_recipe("nowhere.yaml")


def test_a_model_dump_reads_back(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    assert Recipe.model_validate(recipe.model_dump()).hash() == recipe.hash()
