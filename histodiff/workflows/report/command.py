"""``report``: one self-contained HTML page, and JSON, of what artifacts hold and what they show.

The page loads nothing from elsewhere: pictures are embedded, there is no script. The verdicts and
the limits on it are computed from the trials (``report_results``, ``report_statements``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Annotated, Any, ClassVar, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import Field, model_validator

from histodiff.artifacts import Artifact, CommandConfig, Kind, Reference, begin, open_artifact
from histodiff.cluster.site import Site
from histodiff.config import Location
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.evaluation.metrics import CALIBRATION, METRICS
from histodiff.evaluation.sentences import capitalised, points, words
from histodiff.storage import StoragePath, write_bytes
from histodiff.telemetry import progress
from histodiff.workflows.registry import Estimate
from histodiff.workflows.report.ceilings import ceiling_shown
from histodiff.workflows.report.choices import (
    choice_sentences,
    scored_on_test,
    settings_compared,
)
from histodiff.workflows.report.comparisons import (
    Comparison,
    Result,
    comparisons,
    results,
    setting_text,
)
from histodiff.workflows.report.dataset_warnings import dataset_warnings
from histodiff.workflows.report.guides import guides_shown
from histodiff.workflows.report.pictures import Picture, effects_figure
from histodiff.workflows.report.quality import sample_quality
from histodiff.workflows.report.samples import class_samples, unguided_samples
from histodiff.workflows.report.sections import (
    cohort,
    reconstruction,
    selections,
)
from histodiff.workflows.report.statements import (
    Evidence,
    general_limits,
    headline,
    held_out,
    limits,
    shown,
)
from histodiff.workflows.report.study.contrasts import Contrast, p_text
from histodiff.workflows.report.study.section import study_section
from histodiff.workflows.report.tables import HeatTable
from histodiff.workflows.report.training import pretraining
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.choice import read_choices
from histodiff.workflows.sweep.trial_table import TrialRow, read_trials

PAGE, DATA = "report.html", "report.json"


class ReportConfig(CommandConfig):
    """Config of ``report``."""

    artifact_kind: ClassVar[Kind] = Kind.REPORTS

    title: str
    """Heading of the page."""
    patches: Annotated[tuple[Reference, ...], Location()] = ()
    """PatchIndexes whose slides are shown."""
    autoencoder: Annotated[Reference | None, Location()] = None
    """Autoencoder whose reconstructions are shown."""
    denoiser: Annotated[Reference | None, Location()] = None
    """Denoiser whose training is shown."""
    samples: Annotated[tuple[Reference, ...], Location()] = ()
    """SampleStores whose measured quality is shown, beside those of the sweep."""
    sweep: Annotated[Reference | None, Location()] = None
    """Sweep whose samples, selections and classifiers are shown and compared."""
    ceilings: Annotated[tuple[Reference, ...], Location()] = ()
    """What perfect samples would have bought; shown as tables."""
    metric: Literal[
        "accuracy", "balanced_accuracy", "macro_f1", "auc", "sensitivity", "specificity"
    ] = "balanced_accuracy"
    """Metric on which arms are compared; chosen before looking at results."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of the intervals."""
    images_per_class: int = Field(default=8, ge=1, le=32)
    """Patches and samples shown of each class."""
    notes: tuple[str, ...] = ()
    """Limits that the numbers do not know of, such as generated slides."""
    seed: int = 0
    """Draws the real patches that are shown."""

    @model_validator(mode="after")
    def _has_content(self) -> "ReportConfig":
        if not self.inputs():
            raise ValueError(
                "give at least one of patches, autoencoder, denoiser, samples, sweep, ceilings"
            )
        return self

    def inputs(self) -> dict[str, Reference]:
        found = {
            f"patches.{number}": reference.as_kind(Kind.PATCHES)
            for number, reference in enumerate(self.patches)
        }
        found |= {
            f"ceilings.{number}": reference.as_kind(Kind.CEILINGS)
            for number, reference in enumerate(self.ceilings)
        }
        found |= {
            f"samples.{number}": reference.as_kind(Kind.SAMPLES)
            for number, reference in enumerate(self.samples)
        }
        for key, reference, kind in (
            ("autoencoder", self.autoencoder, Kind.AUTOENCODERS),
            ("denoiser", self.denoiser, Kind.DENOISERS),
            ("sweep", self.sweep, Kind.SWEEPS),
        ):
            if reference is not None:
                found[key] = reference.as_kind(kind)
        return found


@dataclass(frozen=True)
class Compared:
    """The comparison of arms: table, differences, verdicts and limits."""

    headline: str
    limits: Sequence[str]
    general_limits: Sequence[str]
    """Those that hold whatever the intervals are of."""
    results: Sequence[Result]
    comparisons: Sequence[Comparison]
    sentences: Sequence[str]
    figure: Picture | None
    heat: Sequence[HeatTable]
    choices: Sequence[str]
    tested: str | None
    errors: Mapping[str, str]


def report(config: ReportConfig, site: Site) -> Artifact:
    """Writes ``report.html`` and ``report.json``."""
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    draft = begin(root, config, inputs=inputs)
    if draft.finished is not None:
        return draft.finished
    with draft:
        page = _page(config, inputs, root)
        html = _rendered(page)
        write_bytes(draft.path / PAGE, html.encode())
        write_bytes(draft.path / DATA, (json.dumps(_numbers(page), indent=2) + "\n").encode())
        return draft.finish(
            {"page": PAGE, "page_bytes": len(html.encode()), "headline": page["headline"]}
        )


def estimate(config: ReportConfig, site: Site) -> Estimate:
    """What the page would show."""
    del site
    return {"artifacts": len(config.inputs()), "images_per_class": config.images_per_class}


def _page(
    config: ReportConfig, inputs: Mapping[str, Artifact], root: StoragePath
) -> dict[str, Any]:
    """Everything on the page, by section; absent sections are None or empty."""
    sweep = inputs.get("sweep")
    rows = read_trials(sweep.path) if sweep else []
    with progress("report", total=8, unit="sections") as bar:
        cohorts = [cohort(item) for key, item in inputs.items() if key.startswith("patches.")]
        bar.advance()
        rebuilt = reconstruction(inputs["autoencoder"]) if "autoencoder" in inputs else None
        bar.advance()
        trained = pretraining(inputs["denoiser"]) if "denoiser" in inputs else None
        bar.advance()
        named = [item for key, item in inputs.items() if key.startswith("samples.")]
        samples = [
            *unguided_samples(
                named, _index(inputs), per_strip=config.images_per_class, seed=config.seed
            ),
            *class_samples(root, rows, per_class=config.images_per_class, seed=config.seed),
        ]
        bar.advance()
        quality = sample_quality(root, named, rows)
        bar.advance()
        chosen = selections(root, rows, per_class=config.images_per_class)
        bar.advance()
        accepted = sum(item.accepted for item in chosen), sum(item.total for item in chosen)
        compared = _compared(config, sweep, rows, root, accepted) if sweep else None
        bar.advance()
        study = None
        if sweep:
            study = study_section(
                sweep, rows, root, metric=config.metric, level=config.level,
                images_per_class=config.images_per_class,
            )  # fmt: skip
        bar.advance()
    shown_first = study or compared
    return {
        "title": config.title,
        "metric": config.metric,
        "level": config.level,
        "notes": config.notes,
        "headline": shown_first.headline if shown_first else None,
        "compared": compared,
        "study": study,
        "samples": samples,
        "quality": quality,
        "selections": chosen,
        "ceilings": [
            ceiling_shown(item) for key, item in inputs.items() if key.startswith("ceilings.")
        ],
        "guides": guides_shown(root, rows),
        "cohorts": cohorts,
        "dataset_warnings": dataset_warnings(root, inputs.values()),
        "reconstruction": rebuilt,
        "pretraining": trained,
        "provenance": [_origin(item) for item in inputs.values()],
    }


def _index(inputs: Mapping[str, Artifact]) -> PatchIndex | None:
    """The first PatchIndex of the page."""
    first = inputs.get("patches.0")
    return None if first is None else PatchIndex.open(first.path)


def _compared(
    config: ReportConfig,
    sweep: Artifact,
    rows: Sequence[TrialRow],
    root: StoragePath,
    accepted: tuple[int, int],
) -> Compared:
    plan = SweepConfig.model_validate(sweep.manifest.config)
    table = results(rows, level=config.level)
    table.sort(key=lambda item: _place(item, plan))
    found = comparisons(
        rows, arms=plan.labels, control=plan.control, metric=config.metric, level=config.level
    )
    evidence = Evidence(
        comparisons=found,
        control=plan.control,
        metric=config.metric,
        num_seeds=len(plan.seeds),
        num_failed=sum(row.error is not None for row in rows),
        held_out=held_out(root, rows, control=plan.control, metric=config.metric),
        accepted_fraction=accepted[0] / accepted[1] if accepted[1] else None,
        notes=config.notes,
    )
    return Compared(
        headline=headline(evidence),
        limits=limits(evidence),
        general_limits=general_limits(evidence),
        results=table,
        comparisons=found,
        sentences=shown(evidence),
        figure=_effects(table, rows, config.metric),
        heat=settings_compared(plan, rows, table, metric=config.metric, level=config.level),
        choices=choice_sentences(read_choices(sweep.path)),
        tested=scored_on_test(plan),
        errors={str(row.artifact): row.error for row in rows if row.error is not None},
    )


def _place(result: Result, plan: SweepConfig) -> tuple[Any, ...]:
    """Sorts by the settings that all arms share, then by arm, then by its own settings."""
    shared = [name for name in plan.search if name in _control_axes(plan)]
    own = [name for name in plan.search if name not in shared]
    return (
        *_ranks(result, shared, plan),
        plan.labels.index(result.arm),
        *_ranks(result, own, plan),
    )


def _control_axes(plan: SweepConfig) -> set[str]:
    return {
        name
        for name, axis in plan.search.items()
        if any(target.partition(".")[0] == plan.control_step for target in axis.targets)
    }


def _ranks(result: Result, names: Sequence[str], plan: SweepConfig) -> list[int]:
    return [
        plan.search[name].values.index(result.settings[name]) if name in result.settings else -1
        for name in names
    ]


def _effects(table: Sequence[Result], rows: Sequence[TrialRow], metric: str) -> Picture | None:
    shown = [result for result in table if metric in result.metrics]
    if not shown:
        return None
    values = {
        line: [
            row.metrics[metric]
            for row in rows
            if row.arm == result.arm and row.axes == result.settings and row.error is None
        ]
        for line, result in enumerate(shown)
    }
    ranked = "; ".join(f"{r.arm} {r.metrics[metric].mean:.3f}" for r in shown)
    alt = f"{words(metric)} of every arm, mean and interval over seeds: {ranked}."
    return effects_figure(shown, values, metric=metric, alt=alt)


def _origin(artifact: Artifact) -> dict[str, Any]:
    """Where an input of the report comes from."""
    manifest = artifact.manifest
    packages = manifest.provenance.get("packages", {})
    return {
        "artifact": str(artifact.reference),
        "fingerprint": manifest.fingerprint,
        "content_sha256": manifest.content_sha256,
        "git": manifest.provenance.get("git"),
        "platform": manifest.provenance.get("platform"),
        "wall_seconds": manifest.provenance.get("wall_seconds"),
        "packages": {
            name: packages[name]
            for name in ("histodiff-train", "torch", "diffusers", "ray", "timm") if name in packages
        },
        "skipped": len(manifest.skipped),
        "failed": len(manifest.failed),
    }  # fmt: skip


def _rendered(page: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("histodiff.workflows.report", "."), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        words=words, points=points, settings=setting_text, p_text=p_text, first_upper=capitalised
    )
    template = environment.get_template("report.html.j2")
    return template.render(page=page, metrics=METRICS, all_metrics=(*METRICS, *CALIBRATION))


def _numbers(value: Any) -> Any:
    """The page as JSON-ready values, without its pictures."""
    if isinstance(value, Picture):
        return {"caption": value.caption, "alt": value.alt}
    if isinstance(value, Comparison):
        return {**_numbers(asdict(value)), "verdict": value.verdict, "sentence": value.sentence}
    if isinstance(value, Contrast):
        own = {name: _numbers(getattr(value, name)) for name in value.__dataclass_fields__}
        return {**own, "verdict": value.verdict, "sentence": value.sentence}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _numbers(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): _numbers(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_numbers(item) for item in value]
    return value
