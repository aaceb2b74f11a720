"""Settings as parameters of a function, for those who read signatures: Gradio its endpoints, Typer its options."""

from collections.abc import Callable
from dataclasses import Field, fields
from inspect import Parameter, signature
from typing import TypeVar

from .settings import Settings

Function = TypeVar("Function", bound=Callable[..., object])
_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def choose_fields(*names: str) -> list[Field]:
    """Return the fields of `Settings` of these names, or all of them for none."""
    return [one for one in fields(Settings) if not names or one.name in names]


def show_parameters(function: Function, chosen: list[Parameter], behind: str) -> Function:
    """Let a function's signature have parameters behind that called `behind`, in place of its `*choices` or `**`."""
    shown = signature(function)
    own = [one for one in shown.parameters.values() if one.kind not in _REST]
    place = [one.name for one in own].index(behind) + 1
    own[place:place] = chosen
    function.__signature__ = shown.replace(parameters=own)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in own} | {"return": shown.return_annotation}
    return function
