"""The fire-alarm scenario of the tutorial: an evaluation case, never a training row."""

from __future__ import annotations

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

QUESTION = "输入图片是/tmp/1.jpg,协助判断图片中是否存在着火点"
CALL = ToolCall("fire_recognition", '{"image": "/tmp/1.jpg"}')
OBSERVATION = "[{'coordinate': [101.1, 200.9], 'on_fire': True}]"
