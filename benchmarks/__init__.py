"""Measurements: side by side in one run, as ratios, with the command that repeats them."""
