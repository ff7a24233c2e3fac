"""Config of a study: what is asked and compared is written down before the test is scored.

A study is the part of a sweep's config that its report holds the results against: the family of
comparisons that is corrected for together, the groups of which the best arm is compared, and the
goal. Nothing in it changes what a trial computes.
"""

from collections.abc import Collection
from typing import Annotated, Self

from pydantic import Field, model_validator

from histodiff.artifacts.command import Word
from histodiff.config import Config, Location

GENERATIVE, NON_GENERATIVE = "generative", "non_generative"
BEST = "best "
"""`best <group>` stands for the arm of a group that is best on validation."""


class Groups(Config):
    """Arms among which the best is looked for, on validation, at each budget."""

    generative: tuple[str, ...] = Field(min_length=1)
    """Labels of arms that train on generated images."""
    non_generative: tuple[str, ...] = Field(min_length=1)
    """Labels of arms that do not, and use no more labels."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        both = sorted(set(self.generative) & set(self.non_generative))
        if both:
            raise ValueError(f"'{both[0]}' is in both groups; leave it in one")
        return self

    def members(self, group: str) -> tuple[str, ...]:
        """Labels of the arms of a group."""
        return {GENERATIVE: self.generative, NON_GENERATIVE: self.non_generative}[group]


class Goal(Config):
    """What the study hopes to show, in points of the report's metric, against the control."""

    gain_points: float = Field(gt=0)
    """The best generative arm gains at least this much at one budget, with an interval above 0."""
    worst_points: float = Field(default=-1.0, le=0)
    """At no budget does it lose more than this."""


class StudyConfig(Config):
    """What is asked, and what was fixed before the test was scored."""

    question: Annotated[str, Location()]
    """The question, in a sentence."""
    protocol: Annotated[tuple[str, ...], Location()] = ()
    """How it is answered: data, splits, training, in sentences. The report repeats them."""
    family: tuple[tuple[str, str], ...] = Field(default=())
    """Comparisons `[arm, control]` that are corrected for together, each at every budget; labels of
    arms, `best generative` or `best non_generative`. Empty: every arm against the control."""
    best_of: Groups | None = None
    """The groups of generative and other arms."""
    budget: Word | None = None
    """Axis of the label budgets: the x-axis of the learning curves."""
    guidance: Word | None = None
    """Axis of the guidance scale, whose effect is shown."""
    ceiling: str | None = None
    """Label of the arm with perfect samples."""
    all_labels: str | None = None
    """Label of the arm that has all labels."""
    goal: Goal | None = None
    """What the study hopes to show."""
    half_width_points: float = Field(default=2.0, gt=0)
    """Half-width of an interval for which the report says how many label draws are needed."""
    replicates: int = Field(default=2000, ge=200)
    """Replicates of the bootstrap over label draws and test patients."""
    bootstrap_seed: int = 0
    """Decides the replicates."""

    @model_validator(mode="after")
    def _family_is_distinct(self) -> Self:
        if len(set(self.family)) < len(self.family):
            raise ValueError("family: a comparison is named twice; name each once")
        for arm, control in self.family:
            if arm == control:
                raise ValueError(f"family: '{arm}' is compared with itself")
        if self.best_of is None:
            for side in (side for pair in self.family for side in pair):
                if group_of(side) is not None:
                    raise ValueError(f"family: '{side}' needs `best_of`, which names the groups")
        return self

    def require_known(self, *, arms: Collection[str], axes: Collection[str]) -> None:
        """Checks every name against those of the sweep.

        Raises:
            ValueError: An arm or axis is none of the sweep's.
        """
        groups = () if self.best_of is None else (*self.best_of.generative,
                                                  *self.best_of.non_generative)  # fmt: skip
        named = [(f"best_of: '{label}'", label) for label in groups]
        named += [
            (f"family: '{side}'", side)
            for pair in self.family
            for side in pair
            if group_of(side) is None
        ]
        named += [
            (f"{field}: '{label}'", label)
            for field, label in (("ceiling", self.ceiling), ("all_labels", self.all_labels))
            if label is not None
        ]
        for where, label in named:
            if label not in arms:
                raise ValueError(f"study.{where} is none of arms: {', '.join(arms)}")
        for field, axis in (("budget", self.budget), ("guidance", self.guidance)):
            if axis is not None and axis not in axes:
                known = ", ".join(axes) or "none"
                raise ValueError(f"study.{field}: '{axis}' is no axis of search: {known}")


def group_of(side: str) -> str | None:
    """The group that `best <group>` speaks of; None for the label of an arm."""
    group = side.removeprefix(BEST)
    return group if side.startswith(BEST) and group in (GENERATIVE, NON_GENERATIVE) else None
