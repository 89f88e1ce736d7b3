"""Print the versions installed in this environment as a constraints file, one ``name==version`` a line.

Left out: the project itself, pip, and the libraries of one accelerator's build of torch, which torch pins itself.
A local part of a version, such as ``+cpu``, is dropped, since each index serves its own.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions

OWN = re.compile(r"ergometry|pip|nvidia-(?!ml-py).*|cuda-.*|triton")

HEADER = """\
# The exact versions that ergometry is built and tested with: constraints for pip (-c), one a line.
# Written by `make lock`.
"""


def main() -> None:
    """Write the constraints to standard output."""
    names = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version.partition("+")[0] for d in distributions()}
    lines = [f"{name}=={version}\n" for name, version in sorted(names.items()) if not OWN.fullmatch(name)]
    sys.stdout.write(HEADER + "".join(lines))


if __name__ == "__main__":
    main()
