"""A personal calendar in memory: events, reminders, invitations and free time. Knows no real date and sends nothing.

Times are local to the user. Only `convert_time` deals with time zones.
"""

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import count
from typing import Literal
from zoneinfo import ZoneInfo

from swift import read_only

Calendar = Literal["work", "private", "family"]
Zone = Literal[
    "UTC",
    "Europe/London",
    "Europe/Berlin",
    "America/New_York",
    "America/Los_Angeles",
    "Asia/Tokyo",
    "Asia/Kolkata",
    "Australia/Sydney",
]


@dataclass(frozen=True)
class Repeat:
    """An occurrence every day or every week; `times` is how many there are in all, with the first."""

    every: Literal["day", "week"]
    times: int


@dataclass(frozen=True)
class _Event:
    """`answer` is empty in the user's own event; in one to which the user is invited, the reply so far."""

    title: str
    start: datetime
    minutes: int = 60
    place: str = ""
    calendar: Calendar = "work"
    people: tuple[str, ...] = ()
    answer: str = ""
    alerts: tuple[str, ...] = ()

    @property
    def end(self) -> datetime:
        return self.start + timedelta(minutes=self.minutes)


_EVENTS: dict[int, _Event] = {
    9: _Event("Stand-up", datetime(2026, 3, 6, 9, 30), 30, people=("mia@nordlicht.example",)),
    12: _Event("Talk on batteries", datetime(2026, 3, 9, 13, 0), 90, "Hamburg", people=("tom@nordlicht.example",)),
    14: _Event("Interview", datetime(2026, 3, 10, 10, 0), 45),
    17: _Event("Site visit", datetime(2026, 3, 11, 9, 0), 120, "Hamburg", people=("mia@nordlicht.example",)),
    18: _Event("Call about insurance", datetime(2026, 5, 4, 15, 0), 30, calendar="private"),
    21: _Event("Planning", datetime(2026, 5, 4, 9, 0)),
    22: _Event("Grandma's birthday", datetime(2026, 6, 20, 15, 0), 180, "Lübeck", "family"),
    23: _Event("Autumn workshop", datetime(2026, 9, 10, 10, 0), 240, answer="none"),
    24: _Event("Trade fair", datetime(2026, 7, 21, 9, 0), 480, "Leipzig", answer="none"),
}
_OTHERS: dict[str, list[_Event]] = {
    "mia@nordlicht.example": [_Event("Phone call", datetime(2026, 6, 16, 10, 30), 30)],
    "tom@nordlicht.example": [_Event("Lecture", datetime(2026, 3, 6, 14, 0), 120)],
}
"""When other people are busy, beside the user's events in which they take part."""
_REMINDERS: dict[int, str] = {
    4: "2026-03-04T18:00 Return the library books",
    5: "2026-03-05T08:00 Water the plants",
}
_NUMBERS = count(30)
"""The numbers of new events and reminders."""


def create_event(
    title: str,
    start: str,
    minutes: int = 60,
    place: str | None = None,
    calendar: Calendar = "work",
    attendees: list[str] | None = None,
    repeat: Repeat | None = None,
) -> list[str]:
    """Create an event in the calendar.

    Args:
        title: The title as the user words it, without quotes around it.
        start: The start, as YYYY-MM-DDTHH:MM.
        minutes: How long the event takes, in minutes.
        place: Where it takes place, as the user words it.
        calendar: The calendar that gets the event.
        attendees: The e-mail addresses of other people who take part, in the order in which the user names them.
        repeat: How the event repeats; left out for one that takes place once.
    """
    first = _Event(title, _time(start), _positive(minutes), place or "", calendar, tuple(attendees or ()))
    step = timedelta(weeks=1) if repeat and repeat.every == "week" else timedelta(days=1)
    made = {next(_NUMBERS): replace(first, start=first.start + n * step) for n in range(repeat.times if repeat else 1)}
    _EVENTS.update(made)
    return [_shown(number) for number in made]


@read_only
def list_events(first_day: str, last_day: str | None = None, calendar: Calendar | None = None) -> list[str]:
    """List the events of a day or of several days.

    Args:
        first_day: The day, or the first of several days, as YYYY-MM-DD.
        last_day: The last of several days, as YYYY-MM-DD; left out for a single day.
        calendar: The only calendar that counts; left out for all calendars.
    """
    first = _day(first_day)
    last = _day(last_day) if last_day else first
    found = [number for number, event in _EVENTS.items() if first <= event.start.date() <= last]
    return [_shown(number) for number in _in_order(found) if calendar in (None, _EVENTS[number].calendar)]


@read_only
def find_events(text: str, look_in: Literal["title", "place", "people"] = "title") -> list[str]:
    """Find events of any day that contain a text.

    Args:
        text: The text to find, without quotes around it; upper and lower case count as the same.
        look_in: What must contain the text: the title, the place or the e-mail addresses of the people.
    """
    found = []
    for number, event in _EVENTS.items():
        where = {"title": event.title, "place": event.place, "people": " ".join(event.people)}[look_in]
        if text.lower() in where.lower():
            found.append(number)
    return [_shown(number) for number in _in_order(found)]


def move_event(event: int, start: str) -> str:
    """Move an event to another day or time. It stays as long as it is.

    Args:
        event: The number of the event.
        start: The new start, as YYYY-MM-DDTHH:MM.
    """
    _EVENTS[event] = replace(_event(event), start=_time(start))
    return _shown(event)


def cancel_event(event: int, reason: str | None = None) -> str:
    """Cancel an event and remove it from the calendar.

    Args:
        event: The number of the event.
        reason: The reason that the people invited are told, as the user words it.
    """
    gone = _event(event)
    del _EVENTS[event]
    told = f", told {', '.join(gone.people)}{f': {reason}' if reason else ''}" if gone.people else ""
    return f"{gone.title} cancelled{told}"


def set_reminder(text: str, time: str, urgent: bool = False) -> str:
    """Set a reminder that belongs to no event.

    Args:
        text: What the reminder says, as the user words it, without quotes around it.
        time: When it appears, as YYYY-MM-DDTHH:MM.
        urgent: Whether it rings until it is confirmed.
    """
    number = next(_NUMBERS)
    _REMINDERS[number] = f"{_time(time):%Y-%m-%dT%H:%M} {text}{' (urgent)' if urgent else ''}"
    return f"{number}: {_REMINDERS[number]}"


def delete_reminder(reminder: int) -> str:
    """Delete a reminder.

    Args:
        reminder: The number of the reminder.
    """
    if reminder not in _REMINDERS:
        raise ValueError(f"there is no reminder {reminder}")
    return f"{_REMINDERS.pop(reminder)}: deleted"


def add_alert(event: int, minutes_before: int, by: Literal["popup", "email", "sms"] = "popup") -> str:
    """Add an alert to an event, which tells the user before it starts.

    Args:
        event: The number of the event.
        minutes_before: How long before the start, in minutes.
        by: How the user is told: by a window on the screen, an e-mail or a text message.
    """
    at = _event(event).start - timedelta(minutes=_positive(minutes_before))
    _EVENTS[event] = replace(_event(event), alerts=(*_event(event).alerts, f"{by} {at:%Y-%m-%dT%H:%M}"))
    return f"{_shown(event)}, alerts: {', '.join(_EVENTS[event].alerts)}"


@read_only
def find_free_slots(
    day: str,
    people: list[str] | None = None,
    minutes: int = 30,
    earliest: str = "09:00",
    latest: str = "17:00",
) -> list[str]:
    """Find when the user is free on a day, alone or together with other people.

    Args:
        day: The day, as YYYY-MM-DD.
        people: The e-mail addresses of the other people who must be free too, without the user.
        minutes: How long a slot must be at least, in minutes.
        earliest: When the first slot may start, as HH:MM.
        latest: When the last slot must end, as HH:MM.
    """
    at, until = _time(f"{day}T{earliest}"), _time(f"{day}T{latest}")
    taken = [*_EVENTS.values(), *(each for person in people or () for each in _OTHERS.get(person, []))]
    slots = []
    for busy in [*sorted(taken, key=lambda each: each.start), _Event("the end", until, 0)]:
        start = min(busy.start, until)
        if start - at >= timedelta(minutes=_positive(minutes)):
            slots.append(f"{at:%H:%M} to {start:%H:%M}")
        at = max(at, busy.end)
    return slots


def invite_people(event: int, emails: list[str], optional: bool = False) -> str:
    """Invite people to an event that is in the calendar.

    Args:
        event: The number of the event.
        emails: The e-mail addresses, in the order in which the user names them.
        optional: Whether the people may stay away.
    """
    new = tuple(f"{email} (optional)" if optional else email for email in emails)
    _EVENTS[event] = replace(_event(event), people=_event(event).people + new)
    return f"{_shown(event)}, with {', '.join(_EVENTS[event].people)}"


def answer_invitation(event: int, answer: Literal["accept", "decline", "maybe"], comment: str | None = None) -> str:
    """Answer an invitation that the user has got.

    Args:
        event: The number of the event.
        answer: The answer.
        comment: A note to the organiser, as the user words it, without quotes around it.
    """
    if not _event(event).answer:
        raise ValueError(f"event {event} is the user's own")
    _EVENTS[event] = replace(_event(event), answer=answer)
    return f"{_shown(event)}: {answer}{f' ({comment})' if comment else ''}"


@read_only
def convert_time(time: str, from_zone: Zone, to_zone: Zone) -> str:
    """Convert a time from one time zone to another.

    Args:
        time: The time in the first zone, as YYYY-MM-DDTHH:MM.
        from_zone: The time zone in which the time is given.
        to_zone: The time zone that is wanted.
    """
    there = _time(time).replace(tzinfo=ZoneInfo(from_zone)).astimezone(ZoneInfo(to_zone))
    return f"{there:%Y-%m-%dT%H:%M} {to_zone}"


def _event(number: int) -> _Event:
    if number not in _EVENTS:
        raise ValueError(f"there is no event {number}")
    return _EVENTS[number]


def _shown(number: int) -> str:
    event = _EVENTS[number]
    place = f", {event.place}" if event.place else ""
    return f"{number}: {event.title}, {event.start:%Y-%m-%dT%H:%M} to {event.end:%H:%M}{place} ({event.calendar})"


def _in_order(numbers: list[int]) -> list[int]:
    return sorted(numbers, key=lambda number: _EVENTS[number].start)


def _positive(minutes: int) -> int:
    if minutes < 1:
        raise ValueError(f"minutes must be at least 1, not {minutes}")
    return minutes


def _time(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M")
    except ValueError:
        raise ValueError(f"{text!r} is not a time such as 2026-03-09T14:30") from None


def _day(text: str) -> date:
    return _time(f"{text}T00:00").date()
