"""Slides and patch sets: readers, tissue masks, PatchIndex, pixels of patches, splits.

The door to openslide, tifffile and PIL. Import from the modules; nothing is re-exported here.
"""
