"""How fast a model trains on this machine, estimated from its prefill. Trains nothing."""

from __future__ import annotations

import time

TRAINING_COST = 3.1
"""Training time of a token relative to its prefill: the backward pass computes no gradients of frozen weights."""
TRIES = 6


def tokens_per_second(model: str) -> float:
    """About how many tokens a second training reads. `model`: a registered name, hub id or folder."""
    import torch

    from swift.model.load import load_model
    from swift.model.location import locate

    loaded = load_model(locate(model))
    tokens = torch.arange(4 * 384, device=loaded.device).view(4, 384) % 1000
    times = []
    for _ in range(TRIES):  # the best of several: other programs may be busy for a second
        began = time.perf_counter()
        with torch.inference_mode():
            loaded(input_ids=tokens, logits_to_keep=1)
        times.append(time.perf_counter() - began)
    return tokens.numel() / min(times) / TRAINING_COST
