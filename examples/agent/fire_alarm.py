"""The tutorial's fire-alarm agent: `swift agent run --tools examples/agent/fire_alarm.py --task "Is there fire ...?"`.

The tools are swift/tools/fire_alarm.py, which `swift demo` runs too. `fire_recognition` looks for pixels with the
colour of flames; the others append a line to fire_alarm.log, or to the file that SWIFT_FIRE_ALARM_LOG names. fire.jpg
and room.jpg beside this file are pictures with and without a fire.
"""

from swift.tools.fire_alarm import call_fireman, call_police, fire_alert, fire_recognition

__all__ = ["call_fireman", "call_police", "fire_alert", "fire_recognition"]  # makes tools of imported functions
