"""Verification: the reference cases with published or exact numbers, computed here."""
