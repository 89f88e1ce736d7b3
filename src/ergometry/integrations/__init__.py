"""Watches a training framework from inside the script's own process: torch. Patches in, rows of tables out."""
