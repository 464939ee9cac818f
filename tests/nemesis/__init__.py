"""The nemesis suite: an installation under load, a seeded schedule of faults, and checkers of what is promised."""
