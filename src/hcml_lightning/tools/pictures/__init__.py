"""Pixels: drawn clips and flow, maps of where a network looked, confusions."""
