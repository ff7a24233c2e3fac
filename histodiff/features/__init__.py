"""Feature vectors of images, and neighbours among them."""
