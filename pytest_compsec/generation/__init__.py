"""Batched greedy decoding, response cache, order and batch composition."""
