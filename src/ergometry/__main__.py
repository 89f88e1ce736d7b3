"""``python -m ergometry`` is ``erg``."""

from ergometry.cli import main

if __name__ == "__main__":
    main()
