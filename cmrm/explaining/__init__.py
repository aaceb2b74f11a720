"""Why two answers differ: how it is measured (explain) and what is found (explanation)."""
