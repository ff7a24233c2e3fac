"""Measures: of classifiers, of reconstructions, and statistics over runs."""
