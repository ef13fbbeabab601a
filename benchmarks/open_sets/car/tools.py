"""The assistant of a car."""

from typing import Annotated, Literal

from pydantic import Field

Percent = Annotated[int, Field(ge=0, le=100)]


def play_music(title: str, artist: str | None = None) -> str:
    """Play a song.

    Args:
        title: Title of the song.
        artist: Who sings it.
    """
    return "ok"


def set_volume(percent: Percent) -> str:
    """Set the volume of the speakers.

    Args:
        percent: Volume in percent.
    """
    return "ok"


def navigate_to(destination: str, avoid_tolls: bool = False) -> str:
    """Start the navigation to a destination.

    Args:
        destination: An address or the name of a place.
        avoid_tolls: Whether to avoid toll roads.
    """
    return "ok"


def set_temperature(
    seat: Literal["driver", "passenger", "rear"], celsius: Annotated[float, Field(ge=16, le=28)]
) -> str:
    """Set the temperature of a seat's zone.

    Args:
        seat: The zone.
        celsius: Degrees Celsius.
    """
    return "ok"


def set_seat_heating(
    seat: Literal["driver", "passenger", "rear"], level: Literal["off", "low", "medium", "high"]
) -> str:
    """Set the heating of a seat.

    Args:
        seat: The seat.
        level: How strong.
    """
    return "ok"


def find_charging_stations(radius_km: int, min_kilowatts: int | None = None) -> str:
    """Find charging stations near the car.

    Args:
        radius_km: How far away at most, in kilometres.
        min_kilowatts: The least power in kilowatts.
    """
    return "none"


def get_tyre_pressure(wheel: Literal["front_left", "front_right", "rear_left", "rear_right"]) -> str:
    """Get the pressure of a tyre.

    Args:
        wheel: Which wheel.
    """
    return "2.4"


def call_contact(name: str) -> str:
    """Call a person of the address book.

    Args:
        name: Name of the person.
    """
    return "ok"


def send_text(name: str, text: str) -> str:
    """Send a text message to a person of the address book.

    Args:
        name: Name of the person.
        text: The message.
    """
    return "ok"


def set_cruise_control(km_per_hour: Annotated[int, Field(ge=30, le=180)]) -> str:
    """Set the speed of the cruise control.

    Args:
        km_per_hour: The speed in kilometres per hour.
    """
    return "ok"


def move_window(window: Literal["driver", "passenger", "rear_left", "rear_right"], open_percent: Percent) -> str:
    """Open or close a window.

    Args:
        window: Which window.
        open_percent: How far open; 0 is closed and 100 is fully open.
    """
    return "ok"


def get_range(unit: Literal["km", "miles"] = "km") -> str:
    """Get the distance that the battery still allows.

    Args:
        unit: The unit of the distance.
    """
    return "210"
