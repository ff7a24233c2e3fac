"""Quality of generated images: what is measured, with which extractor, against which patches."""
