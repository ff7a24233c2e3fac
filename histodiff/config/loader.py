"""YAML file plus ``key.path=value`` overrides -> a validated config.

One YAML is one complete root config: no includes, no inheritance. Every mistake ends in one
``ConfigError`` line that has the file, the key and the fix.
"""

import difflib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from histodiff.config.base import Config
from histodiff.config.bounds import MAX_BYTES, TooLarge, check_bounds
from histodiff.config.problems import causes, explained
from histodiff.credentials import refuse_secret
from histodiff.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=Config)
_SHOWN = 200
"""Characters of an override that a message repeats."""


class _StrictLoader(yaml.SafeLoader):
    """A safe YAML loader that refuses duplicate keys."""


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        if key in seen:
            line = key_node.start_mark.line + 1
            raise yaml.constructor.ConstructorError(
                None, None, f"line {line}: '{key}' is given twice"
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates
)


def find_config(name: str) -> Path:
    """The file that ``name`` means: a path, or the name of a config that ships with histodiff.

    Raises:
        ConfigError: Neither exists; names the closest shipped config.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    wanted = name.removeprefix("configs/").removesuffix(".yaml") + ".yaml"
    if (shipped / wanted).is_file():
        return shipped / wanted
    known = sorted(str(p.relative_to(shipped)) for p in shipped.rglob("*.yaml"))
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.4)
    hint = f"; did you mean configs/{close[0]}?" if close else ""
    raise ConfigError(f"{name}: no such config file{hint}")


def shipped_configs() -> Path:
    """The folder of the configs that come with histodiff."""
    package = files("histodiff")
    for candidate in (Path(str(package / "configs")), Path(str(package)).parent / "configs"):
        if candidate.is_dir():
            return candidate
    raise ConfigError(
        "the configs folder of the installation is missing; reinstall histodiff-train"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        loaded = _loaded(_text_of(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); give the path of a YAML file"
        ) from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not valid YAML: {problem}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"{path}: must be a mapping of config keys, found {type(loaded).__name__}"
        )
    return loaded


def _text_of(path: Path) -> str:
    with path.open(encoding="utf-8") as stream:
        return stream.read(MAX_BYTES + 1)  # more is refused, however large it is


def _loaded(text: str) -> Any:
    check_bounds(text)
    return yaml.load(text, Loader=_StrictLoader)


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``values`` with every ``key.path=value`` set; values are parsed as YAML.

    Raises:
        ConfigError: An override without ``=``, or a path through something that is no mapping.
    """
    result: dict[str, Any] = _copied(dict(values))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"override '{override}': write it as key.path=value")
        try:
            value = _loaded(text)
        except yaml.YAMLError as error:
            shown = override if len(override) <= _SHOWN else f"{override[:_SHOWN]}..."
            reason = f" ({error})" if isinstance(error, TooLarge) else ""
            raise ConfigError(f"override '{shown}': the value is not valid YAML{reason}") from error
        set_at(result, key, value)
    return result


def changed(
    values: Mapping[str, Any], *, merged: Mapping[str, Any], replaced: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of ``values`` with changes by ``key.path``: ``merged`` first, then ``replaced``.

    Raises:
        ConfigError: A path through something that is no mapping.
    """
    result: dict[str, Any] = _copied(dict(values))
    for key, value in merged.items():
        _merge(result, key, _copied(value))
    for key, value in replaced.items():
        set_at(result, key, _copied(value))
    return result


def _merge(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets ``key.path`` in place; a mapping is merged, unless it names its own ``type``."""
    if isinstance(value, Mapping) and value and "type" not in value:
        for inner, item in value.items():
            _merge(values, f"{key}.{inner}", item)
    else:
        set_at(values, key, value)


def set_at(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets ``values[a][b]...`` for ``key`` ``a.b...`` in place; list items by their number."""
    node: Any = values
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(node, list) and parent.isdigit() and int(parent) < len(node):
            node = node[int(parent)]
        elif isinstance(node, dict):
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        else:
            raise ConfigError(
                f"override '{key}': '{parent}' is not a mapping; set its parent instead"
            )
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"override '{key}': '{last}' has no mapping to be set in")


def read_config(given: str | dict[str, Any]) -> dict[str, Any]:
    """The mapping in the config file that is named, or the one given in its place."""
    return read_yaml(find_config(given)) if isinstance(given, str) else given


def load_config(cls: type[ConfigT], path: Path, overrides: Sequence[str] = ()) -> ConfigT:
    """The config in ``path`` with overrides applied, validated as ``cls``."""
    return parse_config(cls, apply_overrides(read_yaml(path), overrides), source=str(path))


def parse_config(cls: type[ConfigT], values: Mapping[str, Any], *, source: str) -> ConfigT:
    """``values`` validated as ``cls``.

    Raises:
        ConfigError: One line with every problem: ``source: key: what is wrong; fix``.
    """
    _refuse_secrets(values, source)
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(explained(cls, problem) for problem in causes(error.errors()))
        raise ConfigError(f"{source}: {problems}") from error


def _refuse_secrets(value: Any, where: str) -> None:
    """Raises ConfigError for a text that has a password in it: configs are kept with results."""
    if isinstance(value, str):
        refuse_secret(value, where=where)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_secrets(item, f"{where}: {key}")
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_secrets(item, where)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
