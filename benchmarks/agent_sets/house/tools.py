"""A house: lamps, heating, blinds, the burglar alarm and the oven. Its state is that of this process."""

import time
from typing import Annotated, Literal

from pydantic import Field

from swift import read_only

Room = Literal["kitchen", "living_room", "bedroom", "bathroom", "hallway", "office"]
Percent = Annotated[int, Field(ge=0, le=100)]

_ROOMS: tuple[Room, ...] = ("kitchen", "living_room", "bedroom", "bathroom", "hallway", "office")
_PINS = {"4711", "0852"}
_brightness: dict[Room, int] = dict.fromkeys(_ROOMS, 0)
_heating: dict[Room, tuple[float, int | None]] = dict.fromkeys(_ROOMS, (20.0, None))
_measured: dict[Room, float] = {room: 19.5 + 0.3 * number for number, room in enumerate(_ROOMS)}
_blinds: dict[Room, int] = dict.fromkeys(_ROOMS, 0)
_blinds_schedule: list[dict[str, str]] = []
_alarm: dict[str, str | int] = {"mode": "off", "delay_seconds": 0}
_oven: dict[str, str | int] = {"celsius": 0, "heat": "off"}
_timers: list[tuple[float, str]] = []


def turn_lamp(room: Room, state: Literal["on", "off"]) -> str:
    """Turn a room's lamp on at full power, or off.

    Args:
        room: The room of the lamp.
        state: What the lamp should be afterwards.
    """
    _brightness[room] = 100 if state == "on" else 0
    return f"{room}: the lamp is {state}"


def dim_lamp(room: Room, brightness_percent: Annotated[int, Field(ge=1, le=100)]) -> str:
    """Set how bright the lamp of a room is.

    Args:
        room: The room of the lamp.
        brightness_percent: Brightness in percent of full power.
    """
    _brightness[room] = brightness_percent
    return f"{room}: the lamp is at {brightness_percent} %"


def set_temperature(
    room: Room, celsius: Annotated[float, Field(ge=5, le=30)], hours: Annotated[int, Field(ge=1)] | None = None
) -> str:
    """Set the temperature that the heating of a room aims for.

    Args:
        room: The room to heat.
        celsius: Temperature in degrees Celsius.
        hours: For how many hours; leave it out if the user names no duration.
    """
    _heating[room] = (celsius, hours)
    return f"{room}: {celsius:g} °C {'until changed' if hours is None else f'for {hours} h'}"


@read_only
def read_temperature(room: Room) -> str:
    """Read the thermometer of a room: how warm it is there now.

    Args:
        room: The room of the thermometer.
    """
    return f"{room}: {_measured[room]:.1f} °C"


def set_blinds(room: Room, closed_percent: Percent) -> str:
    """Move the blinds of a room now.

    Args:
        room: The room of the blinds.
        closed_percent: 0 is fully open, 100 is fully closed.
    """
    _blinds[room] = closed_percent
    return f"{room}: the blinds are {closed_percent} % closed"


def schedule_blinds(
    room: Room,
    move: Literal["open", "close"],
    time_of_day: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")],
    days: Literal["every_day", "weekdays", "weekend"],
) -> list[dict[str, str]]:
    """Open or close the blinds of a room at the same time of day from now on.

    Args:
        room: The room of the blinds.
        move: Whether they open or close.
        time_of_day: As HH:MM on the 24-hour clock, such as 07:05.
        days: The days on which they move; weekdays are Monday to Friday.
    """
    _blinds_schedule.append({"room": room, "move": move, "time_of_day": time_of_day, "days": days})
    return _blinds_schedule


def arm_alarm(mode: Literal["home", "away"], delay_seconds: Annotated[int, Field(ge=0)] | None = None) -> str:
    """Arm the burglar alarm.

    Args:
        mode: home while people are in the house, away when nobody is.
        delay_seconds: Seconds until it is armed; leave it out if the user names no delay.
    """
    _alarm.update(mode=mode, delay_seconds=30 if delay_seconds is None else delay_seconds)
    return f"the alarm is armed ({mode}) in {_alarm['delay_seconds']} s"


def disarm_alarm(pin: str) -> str:
    """Disarm the burglar alarm with the user's code.

    Args:
        pin: The code of four digits, which only the user knows.
    """
    if pin not in _PINS:
        raise ValueError("wrong code")
    _alarm.update(mode="off", delay_seconds=0)
    return "the alarm is off"


def preheat_oven(
    celsius: Annotated[int, Field(ge=50, le=250)], heat: Literal["top_and_bottom", "fan", "grill"] | None = None
) -> str:
    """Switch the oven on and heat it.

    Args:
        celsius: Temperature in degrees Celsius.
        heat: Where the heat comes from; leave it out if the user does not say.
    """
    _oven.update(celsius=celsius, heat=heat or "top_and_bottom")
    return f"the oven heats to {celsius} °C ({_oven['heat']})"


def start_oven_timer(
    minutes: Annotated[int, Field(ge=1)], at_end: Literal["ring", "switch_oven_off"] | None = None
) -> str:
    """Start the timer of the oven.

    Args:
        minutes: How long it runs, in minutes.
        at_end: What happens when the time is up; leave it out if the user does not say.
    """
    _timers[:] = [(time.monotonic() + 60 * minutes, at_end or "ring")]
    return f"the timer runs for {minutes} min, then: {_timers[0][1]}"


@read_only
def oven_time_left() -> str:
    """Tell how much time is left on the timer of the oven."""
    left = max((end - time.monotonic() for end, _ in _timers), default=0.0)
    return f"{left / 60:.0f} min left" if left > 0 else "no timer is running"
