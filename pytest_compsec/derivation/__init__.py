"""Does a compressed model come from the original that it names? Its weights, row by row, against
what its quantizer could have made of the original's."""
