"""Figures, each beside its baseline in the same run. ``python -m bench --help``; how to read them: README.md."""
