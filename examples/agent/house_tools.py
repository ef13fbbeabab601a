"""Tools for `swift infer --tools examples/agent/house_tools.py`: every public function of the file is one."""

from datetime import datetime
from zoneinfo import ZoneInfo

from swift import read_only

_LAMPS: dict[str, bool] = {}


@read_only
def time_in(zone: str) -> str:
    """Get the time of a place now.

    Args:
        zone: The time zone, such as Europe/Oslo.
    """
    return f"{datetime.now(ZoneInfo(zone)):%H:%M}"


def switch_lamp(room: str, on: bool) -> dict[str, bool]:
    """Switch the lamp of a room on or off.

    Args:
        room: The room the lamp is in.
        on: Whether it should be on.
    """
    _LAMPS[room] = on
    return _LAMPS


@read_only
def add(numbers: list[float]) -> float:
    """Add numbers.

    Args:
        numbers: The numbers to add.
    """
    return sum(numbers)
