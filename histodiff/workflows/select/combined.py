"""The rule `all_of`: every criterion judges every sample, then one score and the quotas decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from histodiff.artifacts import Artifact
from histodiff.classification.images import RealImages
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.features.kinds import ClassifierExtractor
from histodiff.samples import SampleStore
from histodiff.samples.schema import GROUP, REASONS, SCORE
from histodiff.selection.config import AgreementRule, CopiesRule, RealismRule
from histodiff.selection.judgement import Judged, decided, random_order
from histodiff.storage import StoragePath
from histodiff.training import CHECKPOINTS
from histodiff.workflows.labels import require_same_labels
from histodiff.workflows.quality.extractors import check_extractor
from histodiff.workflows.quality.patches import PatchSource
from histodiff.workflows.select.config import (
    RANDOM,
    AllOfRule,
    ConfidenceRule,
    SelectConfig,
    extractor_of,
)
from histodiff.workflows.select.criteria import Bench, Verdicts, verdicts
from histodiff.workflows.select.held_out import held_out_patches
from histodiff.workflows.select.lineage import Seen, images_seen
from histodiff.workflows.select.outcome import Outcome, summary_of
from histodiff.workflows.select.pictures import HeldOutPatches, Pictures


@dataclass(frozen=True)
class Surroundings:
    """What the samples are compared with beside the labelled patches, where a criterion asks."""

    seen: Seen | None = None
    held_out: PatchSource | None = None


def surroundings(
    config: SelectConfig, rule: AllOfRule, inputs: Mapping[str, Artifact],
    *, root: StoragePath, index: PatchIndex, labels_sha256: str,
) -> Surroundings:  # fmt: skip
    """Checks that every criterion's inputs fit, before any work, and finds what it goes by.

    Args:
        config: The command's.
        rule: Its rule.
        inputs: Its artifacts, by the config key that names them.
        root: Where the lineage of the samples is.
        index: The labelled target, divided as the config says.
        labels_sha256: Of the labels that may be used.

    Raises:
        ConfigError: An extractor knows samples or other labels; or there are no held-out patches.
    """
    for number, criterion in enumerate(rule.rules):
        match extractor_of(criterion):
            case (below, extractor):
                prefix = f"rule.rules.{number}.{below}"
                own = {k.removeprefix(prefix): a for k, a in inputs.items() if k.startswith(prefix)}
                check_extractor(extractor, own)
                if isinstance(extractor, ClassifierExtractor):
                    classifier = own["extractor.classifier"]
                    of_target = str(inputs["patches"].reference) in classifier.manifest.inputs
                    place = f"{prefix}extractor.classifier"
                    if isinstance(criterion, ConfidenceRule):
                        _require_no_labels(classifier, place)
                    if of_target or isinstance(criterion, AgreementRule):
                        require_same_labels(labels_sha256, classifier, what=place)
    if not any(isinstance(criterion, CopiesRule | RealismRule) for criterion in rule.rules):
        return Surroundings()
    seen = images_seen(root, inputs["samples"])
    return Surroundings(seen, held_out_patches(config, rule, inputs, index, seen))


def _require_no_labels(classifier: Artifact, place: str) -> None:
    if classifier.manifest.config["method"]["type"] != "self_supervised":
        raise ConfigError(
            f"{place}: {classifier.reference} saw the labels of every fold; name `timm`, `denoiser`"
            " or a classifier of method self_supervised, or train a network per fold"
            " (model: {type: network, ...})"
        )


def by_all(
    config: SelectConfig, rule: AllOfRule, inputs: Mapping[str, Artifact], around: Surroundings,
    store: SampleStore, real: RealImages, *, index: PatchIndex, path: StoragePath, device: str,
) -> Outcome:  # fmt: skip
    """Samples that pass all criteria, in the order of one score, as far as quotas allow."""
    held_out = None if around.held_out is None else HeldOutPatches(around.held_out)
    pictures = Pictures(store, real, held_out, config.batch, device)
    bench = Bench(pictures, index, around.seen, path / CHECKPOINTS, inputs, config.seed)
    found = verdicts(rule.rules, bench)
    samples = store.rows["sample"].to_pylist()
    scores = {judgement.name: judgement.score_N for judgement in found.judgements}
    order_N = (
        random_order(samples, seed=config.seed) if rule.rank_by == RANDOM else scores[rule.rank_by]
    )
    filters = [j for j in found.judgements if j.name not in rule.without]
    quotas = [quota for quota in found.quotas if quota.name not in rule.without]
    judged = decided(
        samples, store.labels, judgements=filters, quotas=quotas, order_N=order_N,
        max_per_class=rule.max_per_class,
    )  # fmt: skip
    measured = {
        **summary_of(filters, store),
        "failed_by_rule": {j.name: int((~j.passes_N).sum()) for j in found.judgements},
        "extractors": pictures.described(),
        "rules": found.measured,
    }
    failed = (*real.failed, *(held_out.failed if held_out else ()))
    return Outcome(_with_agreement(judged, rule, found), _details(judged, found), measured, failed)


def _with_agreement(judged: Judged, rule: AllOfRule, found: Verdicts) -> list[Any]:
    """The decisions, with distance and nearest class where a criterion found them."""
    names = [j.name for j in found.judgements]
    agreement = [c for c in rule.rules if isinstance(c, AgreementRule)]
    if not agreement:
        return judged.decisions
    judgement = found.judgements[names.index(agreement[0].name or agreement[0].type)]
    nearest = judgement.details[f"nearest.{judgement.name}"]
    return [
        replace(decision, distance=-float(score), nearest=str(label))
        for decision, score, label in zip(judged.decisions, judgement.score_N, nearest, strict=True)
    ]


def _details(judged: Judged, found: Verdicts) -> dict[str, Sequence[Any]]:
    """Columns of the selection beside its own: scores, reasons, groups."""
    columns: dict[str, Sequence[Any]] = {REASONS: [list(map(str, r)) for r in judged.reasons]}
    for judgement in found.judgements:
        columns[f"{SCORE}{judgement.name}"] = judgement.score_N.tolist()
        columns |= judgement.details
    for quota in found.quotas:
        columns[f"{GROUP}{quota.name}"] = quota.group_N
    return columns
