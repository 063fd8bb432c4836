"""The `parameters` cell of a notebook: read with `ast`, never executed, so that a typo is found before a kernel starts.

papermill only warns about an unknown name and guesses types (`07` becomes 7, a list stays a string). Here a value is
YAML, must have a name that the cell knows and must fit the cell's annotation.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Optional, Union

import yaml
from pydantic import TypeAdapter, ValidationError

from vpr_lib.workbook.run.plan import UsageError

_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?\.?(inf|nan)", re.IGNORECASE)
_KINDS = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "Any": Any,
          "object": Any, "Literal": Literal, "Optional": Optional, "Union": Union}  # fmt: skip
_PLAIN = (ast.Name, ast.Constant, ast.Subscript, ast.Tuple, ast.BinOp, ast.BitOr, ast.UnaryOp, ast.USub, ast.Load)
_INJECTED = ("profile", "run_id")


@dataclass(frozen=True)
class Parameter:
    """One line of the `parameters` cell, such as `epochs: int = 3  # passes over the data`."""

    name: str
    kind: ast.expr
    default: str
    comment: str

    def __str__(self) -> str:
        return f"{self.name}: {ast.unparse(self.kind)} = {self.default}" + (f"  # {self.comment}" * bool(self.comment))


@dataclass(frozen=True)
class Raw:
    """A value as typed after `--set name=`: YAML, or the text itself where the annotation wants a string."""

    text: str


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook file with joined sources; plain JSON, because importing nbformat costs a second."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        return [{**cell, "source": "".join(cell["source"])} for cell in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a Jupyter notebook (version 4 JSON): {type(error).__name__}: {error}"
        ) from error


def read_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`, in the order of its cell tagged `parameters`.

    Raises:
        UsageError: if there is not exactly one such cell, it is not plain assignments, a default does not fit its own
            annotation, or `profile` or `run_id` (which the runner injects) is missing.
    """
    tagged = [cell for cell in read_cells(path) if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise UsageError(f"{path.name} needs exactly one cell tagged 'parameters', found {len(tagged)}.")
    known = parse_parameters(tagged[0]["source"], path.name)
    missing = [name for name in _INJECTED if name not in known]
    if missing:
        raise UsageError(
            f"The parameters cell of {path.name} lacks {' and '.join(missing)}, which the runner fills in. "
            'Write: profile: str = "toy" and run_id: str = "".'
        )
    return known


def parse_parameters(source: str, where: str) -> dict[str, Parameter]:
    """Parse the source of one `parameters` cell; see `read_parameters`."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise UsageError(f"The parameters cell of {where} is not Python: {error}") from error
    comments, parameters = _comments(source), {}
    for statement in statements:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        target = statement.target if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [None])[0]
        if not isinstance(statement, ast.AnnAssign | ast.Assign) or not isinstance(target, ast.Name):
            raise UsageError(f"Line {statement.lineno} of the parameters cell of {where} is not 'name: type = value'.")
        try:
            default = ast.literal_eval(statement.value)
        except (ValueError, TypeError) as error:
            raise UsageError(f"Parameter '{target.id}' of {where} needs a literal default such as 3 or 'a'.") from error
        inferred = "Any" if default is None else type(default).__name__
        kind = getattr(statement, "annotation", None) or ast.parse(inferred, mode="eval").body
        parameter = Parameter(target.id, kind, ast.unparse(statement.value), comments.get(statement.end_lineno, ""))
        _convert(default, parameter, where)
        parameters[target.id] = parameter
    return parameters


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def resolve(
    path: Path, from_profile: Mapping[str, Any], overrides: Mapping[str, Raw], injected: Mapping[str, str]
) -> dict[str, Any]:
    """The values to inject into the notebook at `path`, each checked against its annotation; overrides win.

    Raises:
        UsageError: listing every unknown name and ill-typed value at once, with the parameters the notebook knows.
    """
    known = read_parameters(path)
    wanted, values, faults = {**from_profile, **overrides}, {}, []
    for name, value in wanted.items():
        if name in _INJECTED:
            faults.append(f"'{name}' is set by the runner (--profile, --run-id)")
        elif name not in known:
            faults.append(f"unknown parameter '{name}'")
        else:
            try:
                values[name] = _convert(value, known[name], path.name)
            except UsageError as error:
                faults.append(str(error))
    if faults:
        listing = "\n".join(f"  {parameter}" for parameter in known.values())
        raise UsageError(f"{path.stem}: {'; '.join(faults)}.\nIts parameters are:\n{listing}")
    return {**injected, **values}


def _convert(value: object, parameter: Parameter, where: str) -> Any:
    candidates = [value]
    if isinstance(value, Raw):
        try:
            candidates = [yaml.safe_load(value.text), value.text]
        except yaml.YAMLError:
            candidates = [value.text]
    for candidate in candidates:
        try:
            return coerce(candidate, parameter.kind)
        except TypeError:
            continue
        except LookupError as error:
            raise UsageError(f"Parameter '{parameter.name}' of {where} has the annotation {error.args[0]}.") from error
    shown = value.text if isinstance(value, Raw) else repr(value)
    raise UsageError(
        f"parameter '{parameter.name}' must be {ast.unparse(parameter.kind)}, got {shown} "
        f"({type(candidates[0]).__name__})"
    )


def coerce(value: Any, kind: ast.expr) -> Any:
    """`value` as the annotation `kind` wants it: int becomes float, nothing else is bent.

    Raises:
        TypeError: if the value does not fit.  LookupError: if the annotation is not one that can be checked.
    """
    adapter = _adapter(ast.unparse(kind))
    for candidate in (value, _with_floats(value)):
        try:
            return adapter.validate_json(json.dumps(candidate), strict=True)  # as it travels to the notebook
        except (ValidationError, TypeError):
            continue
    raise TypeError(f"{value!r} is not {ast.unparse(kind)}")


@cache
def _adapter(annotation: str) -> TypeAdapter:
    """What checks values of an annotation; only the names of `_KINDS` may occur in it."""
    tree = ast.parse(annotation, mode="eval").body
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        return _adapter(tree.value)
    unknown = [node for node in ast.walk(tree) if not isinstance(node, _PLAIN)]
    unknown += [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id not in _KINDS]
    if unknown:
        raise LookupError(f"'{annotation}', which cannot be checked; use {', '.join(_KINDS)}")
    # names, subscripts and unions, nothing that runs
    return TypeAdapter(eval(annotation, {"__builtins__": {}}, _KINDS))


def _with_floats(value: Any) -> Any:
    """The value with texts such as 1e-3, which YAML 1.1 does not read as numbers, as floats."""
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        return float(value.replace(".inf", "inf").replace(".nan", "nan"))
    return value


def parse_overrides(texts: Iterable[str]) -> list[tuple[str, str, Raw]]:
    """Split `02.epochs=3` into (notebook, parameter, value); UsageError for anything else."""
    parsed = []
    for text in texts:
        target, equals, value = text.partition("=")
        notebook, dot, name = target.strip().rpartition(".")
        if not (equals and dot and notebook and name.isidentifier()):
            raise UsageError(f"--set expects NOTEBOOK.NAME=VALUE such as 02.epochs=3, got '{text}'.")
        parsed.append((notebook, name, Raw(value.strip())))
    return parsed
