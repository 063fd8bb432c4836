"""Small mistakes planted one at a time, and whether a test notices: `python tests/mutate.py -n 20 retrieval/metrics`.

Every mutant lives in the memory of a forked process that runs the tests below; no file is changed. A survivor is a missing
test, or a change that alters nothing (an equivalent mutant): look at each.
"""

import argparse
import ast
import copy
import importlib
import os
import random
import signal
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COVER = {  # module: the tests that are there for it
    "retrieval/metrics": ["retrieval/test_retrieval.py", "retrieval/test_protocol.py", "data/test_positions.py"],
    "retrieval/search": ["retrieval/test_retrieval.py", "retrieval/test_exact.py", "retrieval/test_screen.py"],
    "retrieval/exact": ["retrieval/test_retrieval.py", "retrieval/test_exact.py"],
    "retrieval/protocol": ["retrieval/test_protocol.py", "retrieval/test_retrieval.py", "data/test_silent_omissions.py"],
    "retrieval/folders": ["retrieval/test_protocol.py", "retrieval/test_retrieval.py", "data/test_silent_omissions.py",
                          "retrieval/test_foreign.py"],
    "retrieval/reduce": ["retrieval/test_reduce.py"],
    "retrieval/sequences": ["retrieval/test_sequences.py"],
    "retrieval/run_pairs": ["retrieval/test_run_pair_recall.py"],
    "results/records": ["results/test_records.py", "results/test_results.py"],
    "results/statistics": ["results/test_statistics.py", "results/test_results.py", "results/test_findings.py", "results/test_seeds.py"],
    "results/tables": ["results/test_results.py", "results/test_seeds.py"],
    "results/findings": ["results/test_findings.py"],
    "results/seeds": ["results/test_seeds.py"],
    "results/measure": ["results/test_measure.py"],
    "results/precision": ["results/test_precision.py"],
    "data/ground_truth": ["data/test_manifest.py", "data/test_positions.py", "retrieval/test_retrieval.py", "data/test_tokyo.py",
                          "retrieval/test_protocol.py"],
    "workbook/run/verify": ["workbook/run/test_workbook_runner.py", "workbook/run/test_workbook_kernel.py"],
    "workbook/run/keys": ["workbook/run/test_keys.py", "workbook/run/test_faults.py", "workbook/run/test_workbook_runner.py",
                          "workbook/run/test_workbook_environment.py"],
}  # fmt: skip
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add,
    ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def changes(node: ast.AST) -> list[tuple[str, object]]:
    """What may be done to a node: (field, new value)."""
    found: list[tuple[str, object]] = []
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        found.append(("ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]))
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        found.append(("op", SWAPS[type(node.op)]()))
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        found.append(("test", ast.UnaryOp(ast.Not(), node.test)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        found.append(("op", ast.UAdd()))
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        found.append(("value", not node.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        found += [("value", node.value + 1), ("value", node.value - 1)]
    if isinstance(node, ast.Return) and node.value is not None:
        found.append(("value", ast.Constant(None)))
    return found


def mutants(source: str) -> list[tuple[str, str]]:
    """Every mutant of a source as (what was done, its text); annotations, messages and docstrings stay."""
    tree, made = ast.parse(source), []
    aside = set()
    for node in ast.walk(tree):
        kept = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        kept += [node] if isinstance(node, ast.Raise | ast.JoinedStr | ast.ImportFrom) else []
        aside |= {id(inside) for part in kept if part is not None for inside in ast.walk(part)}
    for number, node in enumerate(ast.walk(tree)):
        for field, value in changes(node) if id(node) not in aside else []:
            other = copy.deepcopy(tree)
            target = next(one for place, one in enumerate(ast.walk(other)) if place == number)
            setattr(target, field, value)
            text = ast.unparse(ast.fix_missing_locations(other))
            line = source.splitlines()[node.lineno - 1].strip()
            made.append(
                (f"{node.lineno}: {ast.unparse(node)[:60]!r} -> {ast.unparse(target)[:60]!r}   in: {line[:90]}", text)
            )
    return made


class Mutated(MetaPathFinder):
    """Gives one module another text."""

    def __init__(self, name: str, text: str):
        self.name, self.text = name, text

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        if name != self.name:
            return None
        spec = PathFinder.find_spec(name, path)
        loader = SourceFileLoader(name, spec.origin)
        loader.get_code = lambda _: compile(self.text, spec.origin, "exec")
        spec.loader = loader
        return spec


def imports_of(path: Path) -> set[str]:
    """Modules of vpr_lib that a source file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vpr_lib"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {name for name in names if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()}
    return found


def import_all(module: str) -> list[str]:
    """Import what the module's tests import, once for all children; returns what a mutant must import again: the module and
    whatever imports it."""
    for name in set().union(*(imports_of(ROOT / "tests" / test) for test in COVER[module])):
        importlib.import_module(name)
    above = {f"vpr_lib.{module.replace('/', '.')}"}
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): imports_of(path)
        for path in (ROOT / "vpr_lib").rglob("*.py")
    }
    while more := {name for name, found in graph.items() if found & above} - above:
        above |= more
    return sorted(above)


def survives(module: str, text: str, limit_s: float, above: list[str]) -> bool:
    """Whether all tests of a module pass on its mutant; a mutant that runs out of time is noticed."""
    if (child := os.fork()) == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        sys.meta_path.insert(0, Mutated(f"vpr_lib.{module.replace('/', '.')}", text))
        for name in above:
            if sys.modules.pop(name, None):
                package, _, leaf = name.rpartition(".")
                vars(sys.modules[package]).pop(leaf, None)  # `from package import leaf` would find the old one
        code = pytest.main(
            ["-x", "-q", "-p", "no:cacheprovider", *(str(ROOT / "tests" / name) for name in COVER[module])]
        )
        os._exit(int(code != 0))
    end = time.monotonic() + limit_s
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.02)
    return ended[1] == 0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("modules", nargs="*", default=list(COVER))
    options.add_argument("-n", type=int, default=15, help="mutants of each module, drawn at random")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--seconds", type=float, default=480, help="for everything")
    given = options.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    start, killed, survived = time.monotonic(), 0, 0
    for module in given.modules:
        source = (ROOT / "vpr_lib" / f"{module}.py").read_text(encoding="utf-8")
        above, began = import_all(module), time.monotonic()
        if not survives(module, source, 600, above):
            raise SystemExit(f"The tests of {module} fail as it is.")
        limit_s = 20 + 3 * (time.monotonic() - began)
        found = mutants(source)
        chosen = random.Random(given.seed).sample(found, min(given.n, len(found)))
        for told, text in chosen:
            if time.monotonic() - start > given.seconds:
                break
            alive = survives(module, text, limit_s, above)
            killed, survived = killed + (not alive), survived + alive
            if alive:
                print(f"SURVIVED {module}.py:{told}", flush=True)
        print(f"{module}: {len(found)} mutants known; so far {killed} killed, {survived} survived", flush=True)


if __name__ == "__main__":
    main()
