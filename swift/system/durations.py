"""Durations as text. Standard library only."""


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` within the hour."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
