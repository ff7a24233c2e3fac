"""Every YAML that ships loads, and resolves to its golden values."""

import pytest

from tests.support.golden_configs import GOLDEN, golden_path, resolved, shipped, text_of


@pytest.mark.parametrize("name", shipped())
def test_shipped_config_resolves_to_its_golden(name: str) -> None:
    assert golden_path(name).is_file(), "new config: python -m tests.support.golden_configs"
    assert text_of(resolved(name)) == golden_path(name).read_text()


def test_golden_configs_are_all_of_shipped_configs() -> None:
    assert set(GOLDEN.rglob("*.json")) == {golden_path(name) for name in shipped()}
