"""How tests run everywhere: hypothesis without deadlines, as a busy machine is no fault of the code; the slowest files
first, so that no worker is left alone with one of them at the end."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("swift", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("swift")

SLOWEST = (
    *("test_scale", "test_tuners", "test_studio_browser", "test_trainer", "test_fused", "test_studio_chat_browser"),
    *("test_preferences", "test_sft", "test_block", "test_studio_data_browser", "test_tutorial", "test_native_safety"),
    *("test_guide", "test_published_formats", "test_full", "test_doc_commands"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))  # a stable sort: others stay in their order
