"""Selection: for every sample, whether it may join a training set, in which order, and why not.

Accepted and rejected samples are both rows. ``order`` goes round the classes, the best of each
first, so that any beginning of it is as balanced as the accepted samples allow.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histodiff.errors import ArtifactNotFound
from histodiff.samples.schema import SCORE, SELECTION_COLUMNS, parquet_bytes
from histodiff.storage import StoragePath, write_bytes

TABLE = "selection.parquet"


@dataclass(frozen=True)
class Decision:
    """What was decided about one sample.

    ``rank`` is its place within its class among the accepted, from 0; None when rejected.
    ``distance`` is to the centroid of its own class; ``real_similarity`` the largest cosine
    similarity to a real training image; both None where no features were computed.
    """

    sample: int
    label: str
    rank: int | None
    reason: str
    distance: float | None = None
    nearest: str | None = None
    real_similarity: float | None = None


@dataclass(frozen=True)
class Selection:
    """An open selection; ``rows`` in order of ``sample``.

    Beside its own columns, that of a combined rule has ``reasons`` (all against a sample), a score
    per criterion, and what the criteria found: nearest images, groups.
    """

    rows: pa.Table

    @classmethod
    def open(cls, path: StoragePath) -> "Selection":
        """The selection at ``path``.

        Raises:
            ArtifactNotFound: There is none.
        """
        try:
            data = (path / TABLE).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArtifactNotFound(f"{path} holds no selection ({TABLE} is missing)") from error
        table = pq.read_table(io.BytesIO(data))
        own = pq.read_table(io.BytesIO(data), schema=SELECTION_COLUMNS)
        for field in table.schema:
            if field.name not in SELECTION_COLUMNS.names:
                own = own.append_column(field, table[field.name])
        return cls(own)

    def accepted(self) -> pa.Table:
        """Rows of the accepted samples, in their order."""
        return self.rows.filter(self.rows["accepted"]).sort_by("order")

    def counts(self) -> dict[str, int]:
        """Accepted samples of every class that has any sample."""
        labels = sorted({str(label) for label in self.rows["label"].to_pylist()})
        accepted = self.accepted()["label"]
        return {label: int(pc.sum(pc.equal(accepted, label)).as_py() or 0) for label in labels}

    def scores(self) -> dict[str, npt.NDArray[np.float64]]:
        """Scores of every sample by the criterion's name; none of a rule that stands alone."""
        return {
            name.removeprefix(SCORE): np.asarray(self.rows[name], np.float64)
            for name in self.rows.column_names
            if name.startswith(SCORE)
        }


def write_selection(
    path: StoragePath,
    decisions: Sequence[Decision],
    *,
    details: Mapping[str, Sequence[Any]] | None = None,
) -> Selection:
    """Writes the decisions at ``path``, in order of ``sample``.

    Args:
        path: Folder of the selection.
        decisions: One per sample.
        details: More columns by name, in the order of ``decisions``.
    """
    places = sorted(range(len(decisions)), key=lambda place: decisions[place].sample)
    ordered = [decisions[place] for place in places]
    order = training_order(ordered)
    table = pa.table(
        {
            "sample": [decision.sample for decision in ordered],
            "label": [decision.label for decision in ordered],
            "order": order,
            "distance": [decision.distance for decision in ordered],
            "nearest": [decision.nearest for decision in ordered],
            "real_similarity": [decision.real_similarity for decision in ordered],
            "accepted": [decision.rank is not None for decision in ordered],
            "reason": [decision.reason for decision in ordered],
        },
        schema=SELECTION_COLUMNS,
    )
    for name, values in (details or {}).items():
        table = table.append_column(name, pa.array(values).take(pa.array(places, pa.int64())))
    write_bytes(path / TABLE, parquet_bytes(table))
    return Selection(table)


def training_order(decisions: Sequence[Decision]) -> npt.NDArray[np.int64]:
    """Place of every decision among the accepted: by rank, then label; -1 for the rejected."""
    accepted = [place for place, decision in enumerate(decisions) if decision.rank is not None]
    accepted.sort(key=lambda place: (decisions[place].rank, decisions[place].label))
    order = np.full(len(decisions), -1, np.int64)
    order[accepted] = np.arange(len(accepted))
    return order
