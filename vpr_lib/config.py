"""Profiles: what a run of the workbook computes, how long it should take and what must hold in it.

A profile is one YAML file in `vpr_lib/configs/profiles/`, validated by the frozen models below: an unknown key, a wrong
type or a missing field is an error that names the file and the field.
"""

from pathlib import Path
from typing import Any, Literal, TypedDict

import yaml
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

PROFILES_FOLDER = Path(__file__).parent / "configs" / "profiles"
RECIPES_FOLDER = Path(__file__).parent / "configs" / "recipes"
FINDINGS_FILE = Path(__file__).parent / "configs" / "findings.yaml"
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class Strict(BaseModel):
    """Base of every settings model: immutable, and a key nobody reads is an error instead of a silent typo."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Compute(Strict):
    """Where and how numbers are computed."""

    device: str = "cpu"  # cpu, cuda, cuda:1
    precision: Precision = "fp32"
    batch_size: int = Field(default=32, gt=0)
    workers: int | None = None  # loader processes; default none on the CPU, up to eight beside a GPU
    quiet: bool = False
    maps: Path | None = None  # folder: a model's frozen layers run once for all its heads, their maps kept in fp16


class ComputeOptions(TypedDict, total=False):
    """The fields of `Compute` beside the device, as keywords of a function."""

    precision: Precision
    batch_size: int
    workers: int | None
    quiet: bool


class Check(Strict):
    """A sanity test: a number that must lie where it is expected, or something is broken.

    Either `expected` with an absolute `tolerance`, or a bound: `at_least`, `at_most`, or both.
    """

    statement: str
    expected: float | None = None
    tolerance: float | None = Field(default=None, ge=0)
    at_least: float | None = None
    at_most: float | None = None
    source: str = ""  # what the expectation rests on

    @model_validator(mode="after")
    def _says_something(self) -> "Check":
        if (self.expected is None) != (self.tolerance is None):
            raise ValueError("'expected' and 'tolerance' come together")
        if self.expected is None and self.at_least is None and self.at_most is None:
            raise ValueError("a check needs 'expected' with 'tolerance', 'at_least' or 'at_most'")
        return self

    def holds(self, value: float) -> bool:
        """Whether `value` satisfies the check; NaN never does."""
        if self.expected is not None and not abs(value - self.expected) <= self.tolerance:
            return False
        if self.at_least is not None and not value >= self.at_least:
            return False
        return self.at_most is None or value <= self.at_most

    def target(self) -> str:
        """The target in words, for tables: '0.882 ± 0.01' or '≥ 0.05'."""
        parts = [] if self.expected is None else [f"{self.expected:,.10g} ± {self.tolerance:.3g}"]
        parts += [] if self.at_least is None else [f"≥ {self.at_least:.5g}"]
        parts += [] if self.at_most is None else [f"≤ {self.at_most:.5g}"]
        return ", ".join(parts)


Verdict = Literal["reproduced", "contradicted", "undecided"]


class Finding(Strict):
    """A statement of a paper, and the rule by which a measured difference speaks for or against it. It never blocks a run."""

    statement: str  # completes "the paper says that ..."
    source: str  # paper and table
    above: float | None = None  # the difference must exceed this
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _has_a_rule(self) -> "Finding":
        if self.above is None and self.at_least is None and self.at_most is None:
            raise ValueError("a finding needs a rule: 'above', 'at_least' or 'at_most'")
        return self

    def holds(self, value: float) -> bool:
        """Whether a single value satisfies the rule; NaN never does."""
        return (
            value == value
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
        )

    def verdict(self, low: float, high: float) -> Verdict:
        """By the interval alone: all of it satisfies the rule, none of it does, or it cannot be told. NaN: undecided."""
        if low != low or high != high:
            return "undecided"
        if self.holds(low) and self.holds(high):
            return "reproduced"
        floors = [bound for bound in (self.above, self.at_least) if bound is not None]
        beneath = any(high < bound for bound in floors) or (self.above is not None and high <= self.above)
        return "contradicted" if beneath or (self.at_most is not None and low > self.at_most) else "undecided"

    def rule(self) -> str:
        """The rule in words, for tables: '> 0' or '≥ -2, ≤ 2'."""
        bounds = (">", self.above), ("≥", self.at_least), ("≤", self.at_most)
        return ", ".join(f"{sign} {bound:.4g}" for sign, bound in bounds if bound is not None)


class NotebookSettings(Strict):
    """What a profile says about one notebook."""

    minutes: float = Field(gt=0)  # expected wall-clock time on the profile's hardware
    timeout_minutes: float | None = None  # per cell; default: ten times `minutes`, at least five
    parameters: dict[str, Any] = {}  # override the notebook's `parameters` cell
    checks: dict[str, Check] = {}
    findings: dict[str, Finding] = {}  # of configs/findings.yaml, or of the profile itself

    @property
    def timeout_s(self) -> float:
        return 60 * (self.timeout_minutes or max(5.0, 10 * self.minutes))


class Profile(Strict):
    """A way to run the workbook: `toy`, `city`, `light` or `paper`."""

    name: str
    description: str
    hardware: str  # what the expected times refer to
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "fp32"
    seed: int = 1
    side_by_side: int = Field(default=1, gt=0)  # notebooks at a time, each with its share of the processor's threads
    notebooks: dict[str, NotebookSettings]


class Findings(RootModel[dict[str, dict[str, Finding]]]):
    """The statements of the papers by notebook and name."""


def load_yaml(path: Path, model: type[BaseModel]) -> Any:
    """Parse a YAML file into `model`.

    Raises:
        FileNotFoundError: if the file is absent.
        ValueError: if it is not YAML or does not fit, naming the file and every offending field.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return model.model_validate(values)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path} does not fit {model.__name__}: {faults}") from error


def _find(kind: str, folder: Path, name: str | Path) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return path
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ValueError(f"Unknown {kind} '{name}'. Known: {known}. A path to a .yaml file works too.")
    return path


def load_profile(name: str | Path) -> Profile:
    """The profile of that name, or from a YAML file; an unknown name lists the known ones (ValueError).

    Every notebook gets the findings that `configs/findings.yaml` has for it, so all profiles test the same statements; what the
    profile writes itself, for instance another rule, comes on top.
    """
    profile = load_yaml(_find("profile", PROFILES_FOLDER, name), Profile)
    common = load_yaml(FINDINGS_FILE, Findings).root
    notebooks = {
        notebook: settings.model_copy(update={"findings": common.get(notebook, {}) | settings.findings})
        for notebook, settings in profile.notebooks.items()
    }
    return profile.model_copy(update={"notebooks": notebooks})


def find_recipe(name: str | Path) -> Path:
    """Path of the training recipe of that name, or `name` itself when it is a YAML path (ValueError if unknown)."""
    return _find("recipe", RECIPES_FOLDER, name)
