from pathlib import Path
from typing import Annotated, ClassVar

import pytest

from histodiff.artifacts import (
    Artifact,
    CommandConfig,
    Draft,
    Kind,
    Reference,
    UnitIssue,
    begin,
    open_artifact,
)
from histodiff.artifacts.artifact import planned_identity, read_plan
from histodiff.config import Location
from histodiff.errors import ArtifactCorrupt, ArtifactDrift, ArtifactNotFound, ConfigError
from histodiff.storage import StoragePath, storage_path, write_bytes


class ToyConfig(CommandConfig):
    artifact_kind: ClassVar[Kind] = Kind.LATENTS

    size: int
    where: Annotated[str, Location()] = "here"

    def inputs(self) -> dict[str, Reference]:
        return {}


def toy(size: int = 3, *, version: str = "v1", where: str = "here", name: str = "toy") -> ToyConfig:
    return ToyConfig(name=name, version=version, size=size, where=where)


@pytest.fixture
def root(tmp_path: Path) -> StoragePath:
    return storage_path(tmp_path / "runs")


def written(root: StoragePath, config: ToyConfig, data: bytes = b"data") -> Artifact:
    draft = begin(root, config)
    write_bytes(draft.path / "data.bin", data)
    return draft.finish({"rows": config.size})


def test_finished_artifact_opens_with_its_manifest(root: StoragePath) -> None:
    made = written(root, toy())
    opened = open_artifact(root, Reference("latents/toy@v1"))
    assert opened.manifest == made.manifest
    assert opened.manifest.contents == {"rows": 3}
    assert opened.manifest.config["size"] == 3
    assert set(opened.manifest.files) == {"data.bin"}
    assert opened.reference == "latents/toy@v1"


def test_open_artifact_missing_and_unfinished_say_which(root: StoragePath) -> None:
    with pytest.raises(ArtifactNotFound, match="does not exist"):
        open_artifact(root, Reference("latents/toy@v1"))
    begin(root, toy())
    with pytest.raises(ArtifactNotFound, match="not finished: run its command again"):
        open_artifact(root, Reference("latents/toy@v1"))


def test_open_artifact_mangled_manifest_is_corrupt(root: StoragePath) -> None:
    made = written(root, toy())
    write_bytes(made.path / "manifest.json", b'{"kind": 3}')
    with pytest.raises(ArtifactCorrupt, match="not a manifest"):
        open_artifact(root, made.reference)


def test_begin_same_config_resumes_and_then_returns_the_finished(root: StoragePath) -> None:
    first = begin(root, toy())
    write_bytes(first.path / "ledger" / "0.json", b"{}")
    again = begin(root, toy(where="elsewhere"))
    assert again.finished is None
    assert (again.path / "ledger" / "0.json").exists()
    again.finish({})
    assert begin(root, toy()).finished is not None


def test_begin_other_config_under_the_same_name_drifts_and_lists_fields(root: StoragePath) -> None:
    written(root, toy(3))
    with pytest.raises(ArtifactDrift, match=r"config\.size: 3 -> 4"):
        begin(root, toy(4))
    assert open_artifact(root, Reference("latents/toy@v1")).manifest.config["size"] == 3


@pytest.mark.parametrize("version", ["dev", "big-dev"])
def test_begin_dev_version_is_rebuilt_on_drift_and_kept_otherwise(
    root: StoragePath, version: str
) -> None:
    written(root, toy(3, version=version))
    assert begin(root, toy(3, version=version)).finished is not None
    drifted = begin(root, toy(4, version=version))
    assert drifted.finished is None
    assert not (drifted.path / "data.bin").exists()


def test_begin_corrupt_plan_names_the_way_out(root: StoragePath) -> None:
    draft = begin(root, toy())
    write_bytes(draft.path / "plan.json", b"{")
    with pytest.raises(ArtifactCorrupt, match="remove"):
        begin(root, toy())


def test_begin_root_that_is_a_file_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        begin(storage_path(tmp_path / "file"), toy())


def test_fingerprint_ignores_places_and_name_but_not_inputs(root: StoragePath) -> None:
    source = written(root, toy(name="source"))
    other = written(root, toy(name="other"), data=b"other data")
    plain = planned_identity(toy(), {})
    assert planned_identity(toy(where="x", name="y", version="v2"), {}) == plain
    assert planned_identity(toy(4), {}) != plain
    assert planned_identity(toy(), {"a": source}) != planned_identity(toy(), {"a": other})
    assert planned_identity(toy(), {}, {"slide": "1"}) != planned_identity(
        toy(), {}, {"slide": "2"}
    )


def test_fingerprint_of_an_input_is_its_content_not_its_name(root: StoragePath) -> None:
    first = written(root, toy(name="first"))
    renamed = written(root, toy(name="renamed"))
    assert planned_identity(toy(), {"a": first}) == planned_identity(toy(), {"a": renamed})


def test_content_digest_depends_on_bytes_and_names_alone(root: StoragePath) -> None:
    first = written(root, toy(name="first"))
    second = written(root, toy(5, name="second"))
    third = written(root, toy(name="third"), data=b"other")
    assert first.manifest.content_sha256 == second.manifest.content_sha256
    assert first.manifest.content_sha256 != third.manifest.content_sha256


def test_finish_hashes_published_files_only(root: StoragePath) -> None:
    draft = begin(root, toy())
    for name in ("rows/0.parquet", "ledger/0.json", "checkpoints/1/x", "scratch/y"):
        write_bytes(draft.path / name, name.encode())
    assert set(draft.finish({}).manifest.files) == {"rows/0.parquet"}


def test_finish_records_issues(root: StoragePath) -> None:
    draft: Draft = begin(root, toy())
    made = draft.finish(
        {},
        skipped=[UnitIssue(unit="s1", reason="NO_TISSUE")],
        failed=[UnitIssue(unit="s2", reason="UNREADABLE", detail="broken")],
    )
    reopened = open_artifact(root, made.reference).manifest
    assert [issue.unit for issue in reopened.skipped] == ["s1"]
    assert reopened.failed[0].detail == "broken"


def test_plan_is_there_before_the_result(root: StoragePath) -> None:
    draft = begin(root, toy(), inventory={"slide": "hash"})
    plan = read_plan(draft.path)
    assert plan is not None
    assert plan["fingerprint"] == draft.fingerprint
    assert plan["what"]["config"] == {"size": 3}
