"""What can be tiled: from the sources of a config to slides and images with ids and labels."""
