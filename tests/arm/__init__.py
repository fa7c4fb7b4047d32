"""Bundles on emulated ARM: `make test-arm`."""
