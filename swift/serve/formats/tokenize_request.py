"""The bodies of POST /tokenize and /detokenize, which are vLLM's. Knows no HTTP and no model."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from swift.chat import Message, Tool
from swift.serve.bad_request import invalid
from swift.serve.formats.chat_completions_messages import MAX_MESSAGES, RequestMessage, dialogue
from swift.serve.formats.chat_completions_request import ChatTool
from swift.serve.formats.request_fields import (
    MAX_TOOLS,
    OneOf,
    RequestObject,
    check_tools,
    free_variables,
    template_variables,
)

_OF_DIALOGUES = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs", "enable_thinking")


class TokenizeRequest(RequestObject):
    """The body of POST /tokenize: a text (`prompt`) or a dialogue (`messages`)."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[RequestMessage] | None, Field(min_length=1, max_length=MAX_MESSAGES)] = None
    tools: Annotated[list[ChatTool] | None, Field(max_length=MAX_TOOLS)] = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(free_variables)] | None = None
    enable_thinking: bool | None = None
    chat_template: Annotated[Any, OneOf(None)] = None

    @model_validator(mode="after")
    def _fits_together(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise invalid("", "needs prompt or messages" if self.prompt is None else "has both prompt and messages")
        if self.messages is None:
            for name in _OF_DIALOGUES:
                if self.__dict__[name] is not None:
                    raise invalid(name, "requires messages")
            return self
        if self.add_special_tokens:
            raise invalid("add_special_tokens", "the chat template writes the special tokens of messages")
        if self.continue_final_message and self.add_generation_prompt:
            raise invalid("continue_final_message", "cannot be combined with add_generation_prompt")
        if self.continue_final_message and self.dialogue[-1].role != "assistant":
            raise invalid("continue_final_message", "the last message is not from the assistant")
        size = len(self.model_dump_json(include={"tools"})) if self.tools else 0
        check_tools(self.described, size, self._schema_field)
        _ = self.template_kwargs
        return self

    @property
    def opens_reply(self) -> bool:
        """Whether the tokens are those of the same chat completion's prompt."""
        return bool(self.continue_final_message) or self.add_generation_prompt is not False

    @property
    def template_kwargs(self) -> dict[str, Any]:
        return template_variables(self.chat_template_kwargs, self.enable_thinking, None, "")

    @property
    def described(self) -> tuple[Tool, ...]:
        return tuple(Tool(tool.model_dump(exclude_unset=True)) for tool in self.tools or ())

    @cached_property
    def dialogue(self) -> tuple[Message, ...]:
        return dialogue(self.messages or [])

    def _schema_field(self, tool: str) -> str:
        return f"tools[{[each.name for each in self.described].index(tool)}].function.parameters"


class DetokenizeRequest(RequestObject):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, lt=2**63)]]
