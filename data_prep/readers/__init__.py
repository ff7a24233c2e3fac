"""Readers: pixels of slides, images and containers, behind one protocol.

The door to openslide, tifffile, h5py and PIL. Import from the modules.
"""
