"""Attacks on classifiers with continuous inputs: within a norm ball around each sample, by the
gradient of the model itself, by queries alone, or with examples made on another model."""
