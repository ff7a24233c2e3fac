"""GeoJSON that QuPath reads and writes: tissue masks and patches out, annotations in.

Coordinates are level-0 pixels, x to the right and y down, as QuPath has them; only the shape of the
files is RFC 7946's, not its degrees. A mask's polygons follow the borders of its pixels exactly, so
rasterising them again gives the same mask. Masks are traced and polygons filled in plain numpy
(`outlines`, `annotations`): shapely would add a dependency and neither traces nor rasterises.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.tissue.annotations import Annotation, Mask, Points, Polygon
from histodiff.data_prep.tissue.outlines import outlines
from histodiff.errors import ConfigError
from histodiff.storage import StoragePath

_DECIMALS = 3
"""Digits of coordinates behind the point: far below half a pixel of any mask."""
_FIX = "export the annotations from QuPath as GeoJSON, with polygons only"


def mask_geojson(mask: Mask, *, x: float, y: float, downsample: float, name: str) -> bytes:
    """A FeatureCollection with one annotation per piece of a mask, classified as ``name``.

    Args:
        mask: Boolean ``(H, W)``.
        x: Level-0 place of the mask's left side.
        y: Level-0 place of its top.
        downsample: Level-0 pixels per pixel of the mask.
        name: The class in QuPath.
    """
    features = []
    for outline in outlines(mask):
        rings = [
            _closed(np.array([x, y]) + ring * downsample)
            for ring in (outline.exterior, *outline.holes)
        ]
        features.append(_feature(rings, object_type="annotation", label=name))
    return _collection(features)


def patches_geojson(
    corners: npt.NDArray[np.int64],
    *,
    side_w: float,
    side_h: float,
    names: Sequence[str] | None = None,
    classes: Sequence[str | None] | None = None,
    measurements: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> bytes:
    """A FeatureCollection with one tile per patch.

    Args:
        corners: Top-left corners ``(n, 2)`` as (x, y) in level-0 pixels.
        side_w: Width of a patch in level-0 pixels.
        side_h: Height of a patch in level-0 pixels.
        names: Names of the patches in QuPath.
        classes: Classes of the patches in QuPath, None for those without.
        measurements: Numbers of the patches ``(n,)`` by name; what is not finite is left out.
    """
    rectangle = np.array([[0, 0], [side_w, 0], [side_w, side_h], [0, side_h]])
    features = []
    for number, corner in enumerate(corners):
        values = {key: float(column[number]) for key, column in (measurements or {}).items()}
        features.append(
            _feature(
                [_closed(corner + rectangle)],
                object_type="tile",
                name=names[number] if names else None,
                label=classes[number] if classes else None,
                measurements={key: value for key, value in values.items() if np.isfinite(value)},
            )
        )
    return _collection(features)


def read_annotations(path: StoragePath, *, unlabelled: str | None = None) -> tuple[Annotation, ...]:
    """The annotations of a GeoJSON file, in its order; children of QuPath's objects included.

    The label is ``classification.name`` (or its ``names``, joined by ``: `` as QuPath shows them),
    else the property ``name``, ``class`` or ``label``. Polygons of any orientation are taken, and
    rings that are not closed are closed.

    Args:
        path: A FeatureCollection, a Feature, or a list of Features.
        unlabelled: Label of features that have none; None makes them an error.

    Raises:
        ConfigError: The file is missing or is no GeoJSON, or a feature is no polygon or has no
            label; the message has the number of the feature, counted from 1.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; give the path of a GeoJSON file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not JSON: {error}; {_FIX}") from error
    return tuple(
        annotation
        for number, feature in enumerate(_features(document, str(path)), start=1)
        for annotation in _annotations(feature, f"{path}: feature {number}", unlabelled)
    )


def _features(document: Any, place: str) -> list[Any]:
    kind = document.get("type") if isinstance(document, dict) else None
    features = document.get("features") if kind == "FeatureCollection" else document
    if kind == "Feature":
        return [document]
    if not isinstance(features, list):
        raise ConfigError(f"{place} is no FeatureCollection, Feature or list of Features; {_FIX}")
    return features


def _annotations(feature: Any, place: str, unlabelled: str | None) -> list[Annotation]:
    """One feature, then the features that QuPath nests in it."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise ConfigError(f"{place} has not the type Feature; {_FIX}")
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise ConfigError(f"{place} has properties that are no object; {_FIX}")
    label = _label(properties) or unlabelled
    if label is None:
        raise ConfigError(
            f"{place} has no class; set one in QuPath, or a property name, class or label"
        )
    found = [Annotation(label=label, polygons=tuple(_polygons(feature.get("geometry"), place)))]
    children = properties.get("childObjects") or properties.get("children") or []
    for number, child in enumerate(children, start=1):
        found += _annotations(child, f"{place}, child {number}", unlabelled)
    return found


def _label(properties: dict[str, Any]) -> str | None:
    classification = properties.get("classification")
    if isinstance(classification, dict):
        classification = classification.get("name") or classification.get("names")
    others = (properties.get(key) for key in ("name", "class", "label"))
    for value in (classification, *others):
        text = ": ".join(map(str, value)) if isinstance(value, list) else value
        if text is not None and str(text).strip():
            return str(text).strip()
    return None


def _polygons(geometry: Any, place: str) -> list[Polygon]:
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    parts = (
        geometry.get("geometries" if kind == "GeometryCollection" else "coordinates")
        if kind
        else None
    )
    if kind not in ("Polygon", "MultiPolygon", "GeometryCollection"):
        raise ConfigError(f"{place} has the geometry {kind}, which is no area; {_FIX}")
    if not isinstance(parts, list) or not parts:
        raise ConfigError(f"{place} has a {kind} without parts; {_FIX}")
    if kind == "GeometryCollection":
        return [polygon for part in parts for polygon in _polygons(part, place)]
    several = parts if kind == "MultiPolygon" else [parts]
    return [_polygon(rings, place) for rings in several]


def _polygon(rings: Any, place: str) -> Polygon:
    if not isinstance(rings, list) or not rings:
        raise ConfigError(f"{place} has a polygon without rings; {_FIX}")
    exterior, *holes = (_ring(ring, place) for ring in rings)
    return Polygon(exterior=exterior, holes=tuple(holes))


def _ring(ring: Any, place: str) -> Points:
    """The points of a ring, not closed; a third coordinate is left out."""
    try:
        points = np.array([(float(point[0]), float(point[1])) for point in ring])
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ConfigError(f"{place} has a ring that is no list of [x, y]; {_FIX}") from error
    if len(points) > 1 and np.array_equal(points[0], points[-1]):
        points = points[:-1]
    if len(points) < 3 or not np.isfinite(points).all():
        raise ConfigError(f"{place} has a ring of {len(points)} points; 3 finite ones are needed")
    return points


def _closed(ring: npt.NDArray[Any]) -> list[list[float]]:
    points = np.round(np.concatenate([ring, ring[:1]]), _DECIMALS)
    whole = points.astype(np.int64)
    closed: list[list[float]] = (whole if np.array_equal(whole, points) else points).tolist()
    return closed


def _feature(
    rings: list[list[list[float]]],
    *,
    object_type: str,
    name: str | None = None,
    label: str | None = None,
    measurements: dict[str, float] | None = None,
) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": object_type}
    if name is not None:
        properties["name"] = name
    if label is not None:
        properties["classification"] = {"name": label, "color": _colour(label)}
    if measurements:
        properties["measurements"] = measurements
    geometry = {"type": "Polygon", "coordinates": rings}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _colour(label: str) -> list[int]:
    """A colour that stays the same for a label, never too dark to be seen on tissue."""
    return [64 + byte % 160 for byte in hashlib.sha256(label.encode()).digest()[:3]]


def _collection(features: list[dict[str, Any]]) -> bytes:
    document = {"type": "FeatureCollection", "features": features}
    return (json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n").encode()
