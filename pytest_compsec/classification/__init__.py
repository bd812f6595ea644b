"""Classifiers under test: their data, their predictions, and how their files become a model.

Images are float tensors (samples, channels, height, width) or any other shape that the model takes,
texts are tuples of str; labels are class indices.
"""
