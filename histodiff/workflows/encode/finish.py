"""The end of ``encode``: shards that are all recorded become an artifact, or a named failure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from histodiff.artifacts import Artifact, Draft, UnitIssue
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.latents import (
    ShardPlan,
    ShardRecord,
    StoreLayout,
    finish_store,
    store_statistics,
)
from histodiff.latents.rows import reason_code
from histodiff.workflows.encode.config import EncodeConfig

_NAMED_ISSUES = 100


@dataclass(frozen=True)
class EncodedStore:
    """A store whose shards are all written and recorded."""

    config: EncodeConfig
    index: PatchIndex
    layout: StoreLayout
    plan: ShardPlan
    records: Mapping[int, ShardRecord]
    """By shard."""

    @property
    def quarantined(self) -> int:
        """Rows that are not there."""
        return sum(len(record.quarantined) for record in self.records.values())

    def published(self, draft: Draft, *, measured: Mapping[str, Any]) -> Artifact:
        """Writes the tables and the manifest.

        Args:
            draft: Of the store.
            measured: What else was measured of the run, for its provenance.

        Raises:
            ConfigError: Too many rows are quarantined.
            ArtifactCorrupt: A shard is missing after all.
        """
        issues = _issues(self)
        self._require_few(issues)
        digests = finish_store(
            draft.path,
            self.layout,
            patches=self.index.patches,
            patch_of_row=self.plan.patch_of_row,
            records=self.records,
        )
        return draft.finish(
            self._contents(),
            content=digests.content,
            files=digests.files,
            failed=issues,
            measured=measured,
        )

    def _require_few(self, issues: list[UnitIssue]) -> None:
        limit, rows = self.config.max_failed_fraction, self.layout.num_rows
        if self.quarantined > limit * rows:
            raise ConfigError(
                f"max_failed_fraction={limit}: {self.quarantined} of {rows} patches failed, first"
                f" {issues[0].unit} ({issues[0].reason}: {issues[0].detail}); mend them and tile"
                " again, or raise max_failed_fraction"
            )

    def _contents(self) -> dict[str, Any]:
        statistics = store_statistics(self.records)
        return {
            "rows": self.layout.num_rows,
            "quarantined": self.quarantined,
            "shards": self.layout.num_shards,
            "moment_shape": list(self.layout.moment_shape),
            "bytes": sum(record.size_bytes for record in self.records.values()),
            "statistics": statistics.model_dump(mode="json") if statistics else None,
            **self.layout.attributes.model_dump(mode="json"),
        }


def _issues(store: EncodedStore) -> list[UnitIssue]:
    """Quarantined patches by name; of very many, the first ones and a count per reason."""
    first_row = {shard: store.layout.shard_rows(shard).start for shard in store.records}
    failed = sorted(
        (int(store.plan.patch_of_row[first_row[record.shard] + position]), reason)
        for record in store.records.values()
        for position, reason in record.quarantined.items()
    )
    named = failed[:_NAMED_ISSUES]
    issues = [_issue(store.index.patches, patch, reason) for patch, reason in named]
    rest = Counter(reason_code(reason) for _, reason in failed[_NAMED_ISSUES:])
    for reason, count in sorted(rest.items()):
        detail = "see `status` in rows/*.parquet of the store"
        issues.append(UnitIssue(unit=f"{count} further patches", reason=reason, detail=detail))
    return issues


def _issue(patches: pa.Table, patch: int, reason: str) -> UnitIssue:
    row = patches.slice(patch, 1).to_pylist()[0]
    name = row["path"] or f"{row['slide_id']} x={row['x']} y={row['y']}"
    code, _, detail = reason.partition(": ")
    return UnitIssue(unit=name, reason=code, detail=detail)
