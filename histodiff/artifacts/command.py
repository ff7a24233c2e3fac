"""What all commands that write an artifact share: the config's name, version and inputs."""

import re
from abc import abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from histodiff.config import Config, Location
from histodiff.errors import ConfigError

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Kind(StrEnum):
    """Kinds of artifacts: the first folder below the root."""

    PATCHES = "patches"
    AUTOENCODERS = "autoencoders"
    LATENTS = "latents"
    DENOISERS = "denoisers"
    CEILINGS = "ceilings"
    GUIDES = "guides"
    SAMPLES = "samples"
    SELECTIONS = "selections"
    CLASSIFIERS = "classifiers"
    SWEEPS = "sweeps"
    REPORTS = "reports"


def _one_word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError(f"'{text}' must be letters, digits, '.', '_' or '-', as it names a folder")
    return text


Word = Annotated[str, AfterValidator(_one_word)]


class Reference(str):
    """The address of an artifact as text: ``name@version`` or ``kind/name@version``."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        return core_schema.no_info_after_validator_function(cls._parsed, core_schema.str_schema())

    @classmethod
    def _parsed(cls, text: str) -> "Reference":
        kind, _, address = text.rpartition("/")
        name, separator, version = address.partition("@")
        good = _WORD.fullmatch(name) and _WORD.fullmatch(version) and separator
        if not good or (kind and kind not in set(Kind)):
            raise ValueError(f"'{text}' is not an artifact; write it as name@version")
        return cls(text)

    @classmethod
    def of(cls, kind: Kind, name: str, version: str) -> "Reference":
        """``kind/name@version``."""
        return cls(f"{kind}/{name}@{version}")

    def as_kind(self, kind: Kind) -> "Reference":
        """The full address, given the kind that is expected here.

        Raises:
            ConfigError: The reference names another kind.
        """
        own, _, address = self.rpartition("/")
        if own and own != kind:
            raise ConfigError(f"'{self}': expected one of {kind}/, as name@version")
        return Reference(f"{kind}/{address}")

    @property
    def folder(self) -> str:
        """``kind/name/version`` of a full address."""
        kind, _, address = self.rpartition("/")
        name, _, version = address.partition("@")
        return f"{kind}/{name}/{version}"


class CommandConfig(Config):
    """Root config of a command that writes one artifact."""

    artifact_kind: ClassVar[Kind]
    """Kind of the artifact that the command writes."""

    name: Annotated[Word, Location()]
    """Name of the artifact that is written."""
    version: Annotated[Word, Location()]
    """Version of the artifact; `dev` and `*-dev` are rebuilt when the config drifts."""

    @abstractmethod
    def inputs(self) -> dict[str, Reference]:
        """Full addresses of the artifacts that are read, by the config key that names them."""

    def check_planned(self, planned: "Mapping[Reference, CommandConfig]") -> None:
        """Checks what can be known before anything of a pipeline or sweep is run.

        Args:
            planned: Configs of the artifacts that are read and will be written by other steps.

        Raises:
            ConfigError: This config cannot be served by them.
        """
        del planned

    @property
    def output(self) -> Reference:
        """Full address of the artifact that is written."""
        return Reference.of(self.artifact_kind, self.name, self.version)
