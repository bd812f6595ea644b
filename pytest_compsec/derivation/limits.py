"""How far an honest quantization goes, for each way of rounding, with what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pytest_compsec.derivation.compare import Limits
from pytest_compsec.derivation.grids import Rounding

#: Measured by ``bench/compression/honest_rows.py`` on a 135M model, worst of 155,520 rows or more
#: (error of one weight in half steps; root mean square error of a row as a multiple of that of
#: even rounding): bitsandbytes int8, NF4, FP4 1.00 and 1.12; NF4 with double quantization 2.54 and
#: 1.55; GGUF by llama.cpp: Q8_0, Q4_0, Q5_0, Q4_K_M, Q2_K 8.24 and 1.28; GPTQ 35.8 and 4.69.
LIMITS: Mapping[Rounding, Limits] = {
    "nearest": Limits(element=1.05, row=1.3, reach=1.02),
    "searched": Limits(element=12.0, row=1.8, reach=1.5),
    # One row in a hundred of an honest GPTQ model is beyond this, and is looked at again.
    "compensating": Limits(element=math.inf, row=1.4, reach=1.5),
}
#: Of a row that GPTQ made: what it puts out differs by at most this multiple of what even rounding
#: would (measured by the same command: at most 0.71; a row edited by a tenth of its norm 0.8 to
#: 1.4, by a fifth 1.5 and more).
OUTPUT_LIMIT = 1.0
#: No row is this far from the original's, whatever it puts out.
ROW_NEVER_BEYOND = 12.0
