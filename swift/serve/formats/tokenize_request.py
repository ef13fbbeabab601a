"""The bodies of POST /tokenize and /detokenize, which are vLLM's. Knows no HTTP and no model."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, model_validator

from swift.chat import Message, Tool
from swift.serve.bad_request import invalid
from swift.serve.formats.chat_completions_messages import RequestMessage, dialogue
from swift.serve.formats.chat_completions_request import ChatTool
from swift.serve.formats.request_fields import MAX_MESSAGES, OneOf, RequestObject
from swift.serve.formats.template_fields import TemplateVariables, template_variables
from swift.serve.formats.tool_fields import MAX_TOOLS, check_tools, schema_fields
from swift.serve.inner_request import ToolChoice

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
    chat_template_kwargs: TemplateVariables | None = None
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
        check_tools(self, self.described, ToolChoice(), schema_fields(self.described, "function.parameters", ""))
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
        return tuple(tool.described for tool in self.tools or ())

    @cached_property
    def dialogue(self) -> tuple[Message, ...]:
        return dialogue(self.messages or [])


class DetokenizeRequest(RequestObject):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, lt=2**63)]]
