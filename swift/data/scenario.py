"""The fire-alarm scenario of the tutorial: an evaluation case, never a training row."""

from __future__ import annotations

from pathlib import Path

from swift.chat import ToolCall

SYSTEM = """\
Answer the following questions as best you can. You have access to the following APIs:
1. fire_recognition: Call this tool to interact with the fire recognition API. \
This API is used to recognize whether there is fire in the image. \
Parameters: [{"name": "image", "description": "The input image to recognize fire", "required": "True"}]

2. fire_alert: Call this tool to interact with the fire alert API. \
This API will start an alert to warn the building's administraters. Parameters: []

3. call_police: Call this tool to interact with the police calling API. \
This API will call 110 to catch the thief. Parameters: []

4. call_fireman: Call this tool to interact with the fireman calling API. \
This API will call 119 to extinguish the fire. Parameters: []

Use the following format:

Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[fire_recognition, fire_alert, call_police, call_fireman]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question
Begin!"""

IMAGE = "/tmp/1.jpg"
QUESTION = f"输入图片是{IMAGE},协助判断图片中是否存在着火点"
CALL = ToolCall("fire_recognition", '{"image": "/tmp/1.jpg"}')
OBSERVATION = "[{'coordinate': [101.1, 200.9], 'on_fire': True}]"


def question(image: str | Path) -> str:
    """The tutorial's question about another picture."""
    return QUESTION.replace(IMAGE, str(image))


def draw_room(file: Path, burns: bool) -> None:
    """Draws a picture of 160 x 120 pixels: a grey room with a window and, if it `burns`, a flame around (52, 82)."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:120, 0:160].astype(float)
    room = np.stack([70 + y / 4, 78 + y / 4, 92 + y / 5], axis=-1)
    room[y > 92] = (60, 52, 46)
    room[(abs(x - 120) < 22) & (abs(y - 38) < 18)] = (150, 190, 225)
    if burns:
        height = (104 - y) / 64  # 0 at the foot of the flame, 1 at its tip
        width = 22 * np.clip(height + 0.15, 0, None) ** 0.5 * np.clip(1 - height, 0, None)
        heat = np.clip(1 - abs(x - 52 + 3 * np.sin(y / 7)) / np.maximum(width, 0.1), 0, 1) * (width > 0.5)
        colour = np.stack([225 + 30 * heat, 80 + 150 * heat, 20 + 70 * heat**3], axis=-1)
        room = np.where((heat > 0.05)[..., None], colour, room)
    Image.fromarray(room.clip(0, 255).astype(np.uint8)).save(file, quality=85)
