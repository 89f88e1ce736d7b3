"""The demonstration: a small language model and real text that needs no download, trained by a script like any other.

``python -m ergometry.demo.train`` trains it plainly; ``erg demo`` runs the same script with measuring on. Nothing
here knows of the meter.
"""
