"""Rows of answers to one prompt, batches of many, and how fluent they are."""
