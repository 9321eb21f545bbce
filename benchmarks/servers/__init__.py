"""The servers that ``benchmarks/serving.py`` puts beside Slipway's, and how they are asked."""
