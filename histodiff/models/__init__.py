"""The networks, their file formats and loaders. The one door to diffusers and timm."""
