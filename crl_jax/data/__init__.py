"""Labelled pictures, from CSV files and TFDS data sets to batches."""
