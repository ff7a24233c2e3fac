"""Config of ``sweep``: the steps, the axes of their grid, and what is compared."""

import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from histodiff.artifacts import CommandConfig, Kind, Reference
from histodiff.artifacts.command import Word
from histodiff.config import Config, Location
from histodiff.workflows.steps import StepSpec
from histodiff.workflows.sweep.study import StudyConfig

VALIDATION = "val_"
"""Beginning of the names of metrics on validation patches; those on test patches have none."""


class Axis(Config):
    """One axis of the grid: fields that take the same value together."""

    sets: tuple[str, ...] = Field(min_length=1)
    """The fields, as `<step>.<key.path>`."""
    values: tuple[Any, ...] = Field(min_length=1)
    """The values that they take."""
    alongside: dict[str, tuple[Any, ...]] = Field(default={})
    """Further fields that change with it: one value for each of `values`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for target, others in self.alongside.items():
            if len(others) != len(self.values):
                raise ValueError(
                    f"alongside.{target} has {len(others)} values, values {len(self.values)}; give"
                    " one for each"
                )
            if target in self.sets:
                raise ValueError(f"alongside.{target} is in `sets` too; name it once")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Every field that it sets, as `<step>.<key.path>`."""
        return (*self.sets, *self.alongside)

    def value_of(self, target: str, value: Any) -> Any:
        """What a field is set to where the axis has a value."""
        if target in self.sets:
            return value
        return self.alongside[target][self.values.index(value)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({json.dumps(value, sort_keys=True) for value in self.values}) < len(self.values):
            raise ValueError(f"values {list(self.values)} repeat; give each value once")
        return self


class Arm(Config):
    """One arm of the comparison: the classifiers of one step."""

    label: str
    """What the table calls it."""
    step: Word
    """A classify step."""


class Choice(Config):
    """Which settings are chosen, and by what, before any test slide is looked at.

    For every arm that the axes reach, and at every setting of the other axes, the mean of the
    metric over seeds decides, on validation slides.
    """

    axes: tuple[Word, ...] = Field(min_length=1)
    """Axes of `search` whose values are chosen."""
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss"]
    """Metric on validation patches; of the log loss the least is taken, else the most."""

    @property
    def validation_metric(self) -> str:
        """Its name among the metrics of a trial."""
        return f"{VALIDATION}{self.metric}"

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.metric == "log_loss" else 1


class NoScheduler(Config):
    """Every trial runs to its end."""

    type: Literal["none"]


class AshaScheduler(Config):
    """Settings that fall behind are stopped early (Li et al. 2020, arXiv 1810.05934).

    Only settings that one is chosen of compete, those of one arm, seed and setting of the other
    axes; by the metric of `choose`, on validation patches. What is compared always runs to its end.
    """

    type: Literal["asha"]
    grace: float = Field(default=0.25, gt=0, lt=1)
    """Share of its training that every trial gets."""
    reduction: int = Field(default=3, ge=2)
    """One of so many goes on at each rung; rungs are at grace, grace * reduction, and so on."""


class SweepConfig(CommandConfig):
    """Config of ``sweep``."""

    artifact_kind: ClassVar[Kind] = Kind.SWEEPS

    artifacts: Annotated[dict[str, Reference], Location()]
    """Finished artifacts that steps may read, by a name of your choice: `kind/name@version`."""
    steps: dict[Word, StepSpec]
    """The steps, as in a pipeline; `from` names a step or one of `artifacts`."""
    search: dict[Word, Axis] = Field(default={})
    """The axes by name."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Seeds; each is set as `seed` on every step that has one."""
    arms: tuple[Arm, ...] = Field(min_length=1)
    """What is compared, in the order of the table."""
    control: str
    """Label of the arm that the others are compared with."""
    study: StudyConfig | None = None
    """What is asked, and what is fixed before the test is scored; the report answers to it."""
    choose: Choice | None = None
    """Settings that are chosen on validation slides; null compares the arms at every setting."""
    scheduler: Annotated[NoScheduler | AshaScheduler, Field(discriminator="type")] = NoScheduler(
        type="none"
    )
    """Which settings of a choice are trained to their end: `none` stops none, `asha` those that
    fall behind on validation."""
    tested: tuple[str, ...] | None = None
    """Labels of the arms that the test slides are scored by, once, at the chosen settings; the
    others are scored on validation slides alone. null: all arms, and without `choose` as their
    configs say."""

    @model_validator(mode="after")
    def _named_well(self) -> Self:
        for name, reference in self.artifacts.items():
            if "/" not in reference:
                raise ValueError(f"artifacts.{name}: '{reference}': write it as kind/name@version")
            if name in self.steps:
                raise ValueError(f"artifacts.{name}: a step has the same name; rename one")
        for axis, fields in self.search.items():
            for target in fields.targets:
                if target.partition(".")[0] not in self.steps:
                    raise ValueError(
                        f"search.{axis}.sets: '{target}' must begin with a step:"
                        f" {', '.join(self.steps)}"
                    )
        return self

    @model_validator(mode="after")
    def _compared_well(self) -> Self:
        for arm in self.arms:
            if arm.step not in self.steps:
                raise ValueError(f"arms: '{arm.label}': '{arm.step}' is no step")
        if self.control not in self.labels:
            raise ValueError(f"control: '{self.control}' is none of arms: {', '.join(self.labels)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} repeat; give each seed once")
        if self.study is not None:
            self.study.require_known(arms=self.labels, axes=tuple(self.search))
        return self

    @model_validator(mode="after")
    def _chosen_well(self) -> Self:
        for label in self.tested or ():
            if label not in self.labels:
                raise ValueError(f"tested: '{label}' is none of arms: {', '.join(self.labels)}")
        if self.tested is not None and self.control not in self.tested:
            raise ValueError(f"tested: the control '{self.control}' must be among them")
        if isinstance(self.scheduler, AshaScheduler) and self.choose is None:
            raise ValueError("scheduler: asha stops settings of a choice; add `choose`")
        for axis in self.choose.axes if self.choose else ():
            if axis not in self.search:
                known = ", ".join(self.search) or "none"
                raise ValueError(f"choose.axes: '{axis}' is no axis of search: {known}")
        return self

    @property
    def on_validation(self) -> bool:
        """Whether the sweep itself says which trials see the test slides."""
        return self.choose is not None or self.tested is not None

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the arms, in order."""
        return tuple(arm.label for arm in self.arms)

    @property
    def control_step(self) -> str:
        """The step of the control."""
        return next(arm.step for arm in self.arms if arm.label == self.control)

    def inputs(self) -> dict[str, Reference]:
        return {f"artifacts.{name}": reference for name, reference in self.artifacts.items()}
