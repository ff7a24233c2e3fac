"""The rule `ablation`: another decision by the scores of a finished selection of the rule `all_of`.

No image is judged again, so that what each criterion does costs seconds. With the criteria and the
order of the selection, the decisions are its own; with others, they are those of `all_of` with
these (tests hold it to both). Legend: N samples.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from histodiff.artifacts import Artifact
from histodiff.errors import ConfigError
from histodiff.samples import SampleStore, Selection
from histodiff.samples.schema import GROUP, REASONS, SELECTION_COLUMNS
from histodiff.selection.config import (
    AblationRule,
    AgreementRule,
    ClusterQuota,
    CopiesRule,
    RealismRule,
    Reason,
    SourceQuota,
)
from histodiff.selection.judgement import Judgement, Quota, decided, random_order
from histodiff.workflows.select.config import (
    RANDOM,
    AllOfRule,
    ConfidenceRule,
    CriterionConfig,
    RuleConfig,
    SelectConfig,
    name_of,
)
from histodiff.workflows.select.outcome import Outcome, summary_of

_RULE: TypeAdapter[RuleConfig] = TypeAdapter(RuleConfig)
_REASONS: dict[type, Reason] = {
    AgreementRule: Reason.OTHER_CENTROID,
    ConfidenceRule: Reason.UNSURE,
    RealismRule: Reason.UNREAL,
    CopiesRule: Reason.COPY,
    ClusterQuota: Reason.CLUSTER_FULL,
    SourceQuota: Reason.SOURCE_FULL,
}


def check_ablation(rule: AblationRule, artifact: Artifact) -> AllOfRule:
    """The rule of the selection, whose criteria are left out.

    Args:
        rule: What is left out.
        artifact: The selection.

    Raises:
        ConfigError: It is of another rule, left out what is to decide now, has no such criterion,
            or has two criteria of one kind, whose reasons cannot be told apart.
    """
    made = _RULE.validate_python(artifact.manifest.config["rule"])
    if not isinstance(made, AllOfRule):
        raise ConfigError(
            f"rule.selection: {artifact.reference} is of rule {made.type}; name one of rule all_of"
        )
    kinds = [criterion.type for criterion in made.rules]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if twice:
        raise ConfigError(
            f"rule.selection: {artifact.reference} has several criteria of type {', '.join(twice)},"
            " whose reasons are one; select anew with rule.without"
        )
    names = {name_of(criterion): criterion for criterion in made.rules}
    unknown = sorted(set(rule.without) - set(names))
    if unknown:
        raise ConfigError(
            f"rule.without {', '.join(unknown)}: {artifact.reference} has no such criterion; it has"
            f" {', '.join(names)}"
        )
    back = sorted(set(made.without) - set(rule.without))
    if back:
        raise ConfigError(
            f"rule.selection: {artifact.reference} left out {', '.join(back)}; name it in"
            " rule.without, too, or a selection that left out nothing"
        )
    scored = [name for name, criterion in names.items() if _is_filter(criterion)]
    if rule.rank_by not in (None, RANDOM, *scored):
        raise ConfigError(
            f"rule.rank_by '{rule.rank_by}': {artifact.reference} has no score of that name; give"
            f" one of {', '.join((*scored, RANDOM))}"
        )
    return made


def by_ablation(
    config: SelectConfig, rule: AblationRule, artifact: Artifact, store: SampleStore
) -> Outcome:
    """Decisions by the scores, reasons and groups of a selection.

    Raises:
        ConfigError: As ``check_ablation``.
    """
    made = check_ablation(rule, artifact)
    selection = Selection.open(artifact.path)
    kept = [criterion for criterion in made.rules if name_of(criterion) not in rule.without]
    filters = [_judgement(criterion, selection) for criterion in kept if _is_filter(criterion)]
    quotas = [
        Quota(
            name_of(criterion), _REASONS[type(criterion)],
            selection.rows[f"{GROUP}{name_of(criterion)}"].to_pylist(), criterion.slack,
        )
        for criterion in kept
        if isinstance(criterion, ClusterQuota | SourceQuota)
    ]  # fmt: skip
    samples = selection.rows["sample"].to_pylist()
    rank_by = rule.rank_by or made.rank_by
    order_N = (
        random_order(samples, seed=config.seed)
        if rank_by == RANDOM
        else selection.scores()[rank_by]
    )
    judged = decided(
        samples, selection.rows["label"].to_pylist(), judgements=filters, quotas=quotas,
        order_N=order_N, max_per_class=made.max_per_class,
    )  # fmt: skip
    decisions = [
        replace(decision, distance=row["distance"], nearest=row["nearest"])
        for decision, row in zip(
            judged.decisions,
            selection.rows.select(["distance", "nearest"]).to_pylist(),
            strict=True,
        )
    ]
    details: dict[str, Any] = {
        name: selection.rows[name].to_pylist()
        for name in selection.rows.column_names
        if name not in SELECTION_COLUMNS.names
    }
    details[REASONS] = [list(map(str, reasons)) for reasons in judged.reasons]
    return Outcome(decisions, details, summary_of(filters, store))


def _is_filter(criterion: CriterionConfig) -> bool:
    return not isinstance(criterion, ClusterQuota | SourceQuota)


def _judgement(criterion: CriterionConfig, selection: Selection) -> Judgement:
    reason, name = _REASONS[type(criterion)], name_of(criterion)
    against = selection.rows[REASONS].to_pylist()
    passes_N = np.array([reason not in reasons for reasons in against], bool)
    return Judgement(name, reason, passes_N, selection.scores()[name])
