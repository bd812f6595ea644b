"""Make a compressed model from an original: quantize, prune, cast."""
