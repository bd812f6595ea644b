"""What the options of compression methods mean. Most mean the same in every method that has them;
how a method works is said by the docstring of its options."""

from __future__ import annotations

from collections.abc import Mapping

METHOD_KEYS: Mapping[str, str] = {
    "method": "Which method.",
    "keep_in_full_precision": "Layers that are left alone, by name or pattern "
    "(`model.layers.3.*`); `auto`: `compsec pin` finds the fewest with which refusals stay.",
    "selection": "The prompt set on which `auto` chooses layers; verdicts come from others.",
    "bits": "Bits per weight.",
    "group_size": "How many weights share a scale; without it an output channel does.",
    "symmetric": "Whether the grid is symmetric about zero; otherwise it has a zero point.",
    "calibration": "The prompt set whose texts the method looks at; none that verdicts come from.",
    "sparsity": "The share of weights that become zero.",
    "share": "The share that is removed.",
    "data": "File of samples with labels that the method trains on.",
    "epochs": "How often training goes through the samples.",
    "learning_rate": "Of the training.",
    "batch_size": "Samples of one step of training.",
    "seed": "Of the order of the samples.",
}
#: By the class of the options, where a key means something of its own.
OF_ONE_METHOD: Mapping[str, Mapping[str, str]] = {
    "BitsAndBytesOptions": {
        "type": "The 4-bit format; needed with `bits: 4`.",
        "double_quant": "Whether the scales of 4 bits are quantized too.",
    },
    "CastOptions": {"dtype": "The float type that weights are cast to."},
    "RoundToNearestOptions": {"levels": "A grid of three or two values, in place of `bits`."},
    "GptqOptions": {
        "group_size": "How many weights share a scale; `null`: an output channel does.",
        "desc_act": "Whether inputs are taken in the order of their activations, largest first.",
    },
    "LayerMagnitudeOptions": {"per": "Within what the smallest weights are looked for."},
    "TaylorOptions": {"per": "Among what the weights compete: all of the model, or of each layer."},
    "WandaOptions": {"pattern": "Two of every four weights, in place of `sparsity`."},
    "LayersOptions": {
        "drop": "The decoder layers that are removed; the first is 0.",
        "count": "How many are removed: those that change the texts of `calibration` least.",
    },
    "FinePruningOptions": {
        "share": "The share of the layer's channels that becomes zero.",
        "layer": "Whose channels; left out, the last convolution, or the last hidden layer.",
    },
}
