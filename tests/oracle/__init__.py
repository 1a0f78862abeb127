"""Independent oracles: what the results should be, computed without importing prefopt."""
