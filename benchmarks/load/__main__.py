"""`python -m benchmarks.load` is `qwen3vl-serve bench`."""

import sys

from benchmarks.load.cli import main

sys.exit(main(sys.argv[1:]))
