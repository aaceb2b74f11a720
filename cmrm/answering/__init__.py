"""Rows of answers to one prompt, batches of many, and why two answers differ."""
