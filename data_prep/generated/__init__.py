"""Generated slides: seeded pictures that look like H&E, for demo and tests. Not histology."""

from histodiff.data_prep.generated.labelled import MAX_PATCHES_PER_SLIDE, write_labelled_patches
from histodiff.data_prep.generated.layout import CLASSES, TissueClass
from histodiff.data_prep.generated.slides import render_slide, write_generated_slides

__all__ = [
    "CLASSES",
    "MAX_PATCHES_PER_SLIDE",
    "TissueClass",
    "render_slide",
    "write_generated_slides",
    "write_labelled_patches",
]
