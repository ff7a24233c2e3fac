"""The images of BreakHis: one magnification, and the published folds.

``dsfold<n>.txt`` has a line ``<file>|<magnification>|<fold>|<train or test>`` for every image.
"""

from pathlib import PurePosixPath

from histodiff.data_prep.sources.inputs import FoundTrap, ImageInput
from histodiff.data_prep.sources.listing import files_below, joined, mapped_label, parsed_name
from histodiff.data_prep.sources.published_sets import BreakhisSource
from histodiff.data_prep.sources.spelling import shown
from histodiff.errors import ConfigError
from histodiff.storage import StoragePath

_PARTS = {"train": None, "test": "test"}
"""Split of the parts of a fold; the training images are divided."""


def breakhis_images(
    source: BreakhisSource, data: str, where: str
) -> tuple[StoragePath, list[ImageInput], tuple[FoundTrap, ...]]:
    """The folder, the images in it of the wanted magnification, and what of it is left out.

    Raises:
        ConfigError: A name is not one of BreakHis, or images and fold list are not the same.
    """
    folder = joined(data, source.path)
    below = files_below(folder, (".png",), where, "images")
    files = {name: size for name, size in below.sizes.items() if _is_of(name, source.magnification)}
    splits = _fold(source, data, where, files)
    images = []
    for name, size in files.items():
        parsed = parsed_name("breakhis", name, where)
        assert parsed is not None
        label = parsed.label
        if label is not None and source.label_map:
            label = mapped_label(label, source, where)
            if label is None:
                continue
        images.append(
            ImageInput(
                path=name,
                slide_id=source.prefix + parsed.slide_id,
                patient_id=parsed.patient_id,
                site=None,
                label=label,
                size_bytes=size,
                given_split=splits.get(PurePosixPath(name).name),
            )
        )
    return folder, images, below.traps(source.path)


def _is_of(name: str, magnification: int) -> bool:
    """Whether a file has the magnification, or a name that says none and is refused later."""
    parts = PurePosixPath(name).name.split("-")
    return len(parts) < 2 or not parts[-2].isdigit() or int(parts[-2]) == magnification


def _fold(
    source: BreakhisSource, data: str, where: str, files: dict[str, int]
) -> dict[str, str | None]:
    """Split of every image of the fold by its file name, None for those that are divided."""
    if source.fold is None:
        return {}
    path = joined(data, source.fold_lists) / f"dsfold{source.fold}.txt"
    try:
        lines = path.read_bytes().decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where}.fold_lists: {path} cannot be read ({type(error).__name__}); unpack"
            " mkfold.tar.gz of the BreakHis page there, or set fold: null"
        ) from error
    listed: dict[str, str | None] = {}
    for number, line in enumerate(lines, start=1):
        values = [value.strip() for value in line.split("|")]
        if len(values) != 4 or values[3] not in _PARTS:
            raise ConfigError(
                f"{path}: line {number}: '{shown(line)}' is no <file>|<magnification>|<fold>|<train"
                " or test>; fetch the list again"
            )
        if values[1] == str(source.magnification):
            if values[0] in listed:
                raise ConfigError(
                    f"{path}: line {number}: {shown(values[0])} is listed twice; fetch the"
                    " list again"
                )
            listed[values[0]] = _PARTS[values[3]]
    names = {PurePosixPath(name).name for name in files}
    for left, there, missing in ((set(listed), names, "lists"), (names, set(listed), "lacks")):
        rest = sorted(left - there)
        if rest:
            raise ConfigError(
                f"{where}.fold_lists: {path} {missing} {rest[0]} ({len(rest)} such images of"
                f" {source.magnification}X), unlike {joined(data, source.path)}; fetch BreaKHis_v1"
                " whole, or set fold: null"
            )
    return listed
