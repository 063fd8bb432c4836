"""The parameters cell is read without being run; names and types are checked before a kernel starts."""

import ast

import pytest

from vpr_lib.workbook.run.parameters import Raw, coerce, parse_overrides, parse_parameters, read_parameters, resolve
from vpr_lib.workbook.run.plan import UsageError


def kind(text):
    return ast.parse(text, mode="eval").body


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, "int", 3),
        (3, "float", 3.0),
        ("1e-3", "float", 0.001),  # YAML 1.1 reads 1e-3 as text
        (True, "bool", True),
        ("a", "str", "a"),
        (None, "int | None", None),
        (4, "None | int", 4),
        (None, "Optional[str]", None),
        ("a", "'str'", "a"),
        ([1, 2], "list[int]", [1, 2]),
        ([1, 2.5], "list[float]", [1.0, 2.5]),
        ({"a": 1}, "dict[str, int]", {"a": 1}),
        ("b", 'Literal["a", "b"]', "b"),
        ("4", "int | str", "4"),
        (4, "float | int", 4),
        ([[1, 2]], "list[list[int]]", [[1, 2]]),
        ({"any": [1]}, "Any", {"any": [1]}),
    ],
)
def test_values_that_fit(value, annotation, expected):
    found = coerce(value, kind(annotation))
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (2.5, "int"), (True, "int"), (True, "float"), (1, "bool"), (7, "str"), ("x", "float"), (None, "int"),
        ("ab", "list[str]"), ([1, "a"], "list[int]"), ("c", 'Literal["a", "b"]'),
        ({"a": "b"}, "dict[str, int]"), ([1], "dict"), ("None", "int | None"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(value, annotation):
    with pytest.raises(TypeError):
        coerce(value, kind(annotation))


def test_annotation_that_cannot_be_checked():
    with pytest.raises(
        UsageError, match=r"'tuple\[int, int\]', which cannot be checked; use int, float, str, bool, list"
    ):
        parse_parameters("size: tuple[int, int] = (1, 2)", "x")  # JSON, in which values travel, has none
    with pytest.raises(UsageError, match=r"'where' of x has the annotation 'Path', which cannot be checked"):
        parse_parameters('where: Path = "a"', "x")


def test_cell_is_read_with_comments_and_inferred_types():
    found = parse_parameters('"""Doc."""\nepochs: int = 3   # passes\nsizes = [1, 2]\nname: str = "a # b"', "x")
    assert [str(parameter) for parameter in found.values()] == [
        "epochs: int = 3  # passes", "sizes: list = [1, 2]", "name: str = 'a # b'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os", "Line 1 of the parameters cell of x is not 'name: type = value'"),
        ("n: int = 3 * 4", "'n' of x needs a literal default"),
        ("n: int = 'a'", "'n' must be int, got 'a'"),
        ("n = = 3", "is not Python"),
    ],
)
def test_cells_that_are_not_plain(source, message):
    with pytest.raises(UsageError, match=message):
        parse_parameters(source, "x")


def test_injected_names_must_be_there(project):
    project.add("01_a", head="epochs: int = 1")
    with pytest.raises(UsageError, match=r'lacks profile and run_id.*run_id: str = ""'):
        read_parameters(project.root / "notebooks/01_a.ipynb")


def test_not_a_notebook_and_no_cell(project):
    project.add("01_a")
    path = project.root / "notebooks/01_a.ipynb"
    path.write_text(path.read_text().replace('"parameters"', '"other"'))
    with pytest.raises(UsageError, match=r"exactly one cell tagged 'parameters', found 0"):
        read_parameters(path)
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"is not a Jupyter notebook"):
        read_parameters(path)


def test_resolve_lists_all_faults_and_the_known_parameters(project):
    project.add("01_a")
    path = project.root / "notebooks/01_a.ipynb"
    injected = {"profile": "tiny", "run_id": "r"}
    assert resolve(path, {"rate": 1}, {"epochs": Raw("7")}, injected) == {**injected, "rate": 1.0, "epochs": 7}
    with pytest.raises(UsageError) as error:
        resolve(path, {"epoch": 1}, {"rate": Raw("fast"), "run_id": Raw("x")}, injected)
    for part in ("unknown parameter 'epoch'", "'rate' must be float, got fast", "'run_id' is set by the runner",
                 "epochs: int = 3  # passes over the data"):  # fmt: skip
        assert part in str(error.value)


def test_text_stays_text_where_a_string_is_wanted(project):
    project.add("01_a", head='profile: str = ""\nrun_id: str = ""\nname: str = ""\nsize: list[int] = [1, 2]')
    path, given = project.root / "notebooks/01_a.ipynb", {"name": Raw("07"), "size": Raw("[3, 4]")}
    assert resolve(path, {}, given, {}) == {"name": "07", "size": [3, 4]}
    assert resolve(path, {}, {"name": Raw("a: [b")}, {}) == {"name": "a: [b"}


def test_overrides():
    assert parse_overrides(["02.epochs=3", "02_x.path=a=b.c"]) == [
        ("02", "epochs", Raw("3")), ("02_x", "path", Raw("a=b.c")),
    ]  # fmt: skip
    for text in ("epochs=3", "02.epochs", "02.ep ochs=3"):
        with pytest.raises(UsageError, match=r"expects NOTEBOOK.NAME=VALUE"):
            parse_overrides([text])
