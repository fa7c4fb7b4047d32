"""The protocols that papers on adaptation report: VTAB-1k, few shots, domain generalisation."""
