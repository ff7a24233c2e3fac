"""No slide and no patient in two splits: checked on patches, of large tables piece by piece."""

from typing import Any

import pyarrow.compute as pc

from histodiff.errors import ConfigError

_ORDER = ("train", "val", "test")
_COLUMNS = ("slide_id", "patient_id")


class DisjointSplits:
    """Knows the split of every slide and patient that it has seen."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {column: {} for column in _COLUMNS}

    def add(self, rows: Any) -> None:
        """Sees more patches.

        Args:
            rows: Table with slide_id, patient_id and split; rows without a split do not count.

        Raises:
            ConfigError: A slide or patient is in two splits; names the splits and the first few.
        """
        for column, known in self._known.items():
            divided = rows.select([column, "split"]).filter(pc.is_valid(rows["split"]))
            shared: dict[str, set[str]] = {}
            for row in divided.group_by([column, "split"]).aggregate([]).to_pylist():
                name, split = str(row[column]), row["split"]
                if known.setdefault(name, split) != split:
                    shared.setdefault(name, {known[name]}).add(split)
            if shared:
                names = sorted(shared)
                between = " and ".join(sorted(shared[names[0]], key=_ORDER.index))
                raise ConfigError(
                    f"splits {between} share {len(names)} {column}s ({', '.join(names[:3])}); split"
                    " by patient"
                )


def assert_disjoint(rows: Any) -> None:
    """Checks that no two splits share a slide or a patient.

    Args:
        rows: Table of patches with slide_id, patient_id and split; rows without a split do not
            count.

    Raises:
        ConfigError: They do; names the splits and the first few.
    """
    DisjointSplits().add(rows)
