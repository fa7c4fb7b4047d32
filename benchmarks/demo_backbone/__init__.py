"""A small vision transformer pretrained on formula-made glyphs, the demo's frozen backbone."""
