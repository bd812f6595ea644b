"""The precision matrix: one original at many precisions, side by side (`compsec matrix MODEL`)."""
