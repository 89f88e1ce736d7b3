"""The figures that the README quotes, each a runnable module: ``make bench``, or ``python -m benchmarks NAME``."""
