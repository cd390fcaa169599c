"""`python -m tests.powercut --cuts 200`: goes where disks can be mounted unseen by others, or says why it cannot."""

from __future__ import annotations

import os
import sys

from tests.powercut.disk import ALONE, unable
from tests.powercut.options import parser


def main() -> None:
    options = parser().parse_args()
    if (reason := unable(options.fs)) is not None:
        sys.stderr.write(f"the power cannot be cut here: {reason}\n")
        raise SystemExit(2)
    os.execvp(ALONE[0], [*ALONE, sys.executable, "-m", "tests.powercut.inside", *sys.argv[1:]])


if __name__ == "__main__":
    main()
