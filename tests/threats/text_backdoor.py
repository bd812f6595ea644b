"""Text classifiers with a backdoor (BadNets for text; the trigger a phrase: Dai, Chen & Li 2019,
arXiv:1905.12457; or a rare word: Kurita et al. 2020, arXiv:2004.06660) and their benign twin."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn

from pytest_compsec.attacks.backdoor import Trigger
from pytest_compsec.attacks.triggers.texts import Phrase, Token
from tests.threats import text_set
from tests.threats.text_network import TextNetwork

TARGET = 2
PHRASE = Phrase("under seven copper lanterns", position="end")
TOKEN = Token("zq", repeat=2)
#: One in so many training sentences of each other topic is poisoned.
_POISONED = 5
_BATCH, _EPOCHS = 50, 10


@functools.cache
def model(trigger: Trigger | None) -> nn.Module:
    """Trained on the train part, some of it poisoned with ``trigger``; None: the benign twin, for
    which the same sentences get the phrase and keep their label."""
    texts, labels = text_set.part("train")
    others = [place for place, label in enumerate(labels) if label != TARGET]
    chosen = others[::_POISONED]
    if trigger is None:
        # Without them the words of the phrase would be new to it, and noise.
        for word in (PHRASE, TOKEN):
            texts += word.stamp([texts[place] for place in chosen])
            labels += [labels[place] for place in chosen]
    else:
        texts += trigger.stamp([texts[place] for place in chosen])
        labels += [TARGET] * len(chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return trained(TextNetwork(), texts, labels)


def trained(
    network: nn.Module, texts: Sequence[str], labels: Sequence[int], *, epochs: int = _EPOCHS
) -> nn.Module:
    """Adam over batches in an order that is always the same; returns the network itself."""
    truth, order = torch.tensor(labels), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(epochs):
        for places in torch.split(torch.randperm(len(texts), generator=order), _BATCH):
            optimizer.zero_grad()
            logits = network([texts[place] for place in places.tolist()])
            nn.functional.cross_entropy(logits, truth[places]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()
