"""Measurements of edgetune against its peers; run by hand, never as tests."""
